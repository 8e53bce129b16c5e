"""Build the networks with seeded weights and their inputs, and put adapters of peft on them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_fuzz.checklist.situations import NETWORKS, Situation, find_method
from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.errors import UnsupportedCaseError

CLASSES: Final = 10
_WORDS: Final = 32
_WIDTH: Final = 16
_LENGTH: Final = 6
_BATCH: Final = 4
_SEED: Final = 0
_SCALE_SPREAD: Final = 0.1


class _Tokens(nn.Module):
    """Attention and an MLP over tokens, as in a transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_WORDS, _WIDTH)
        self.query = nn.Linear(_WIDTH, _WIDTH)
        self.key = nn.Linear(_WIDTH, _WIDTH)
        self.value = nn.Linear(_WIDTH, _WIDTH)
        self.output = nn.Linear(_WIDTH, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.up = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.down = nn.Linear(2 * _WIDTH, _WIDTH)
        self.last_norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)  # (batch, length, width)
        attended = nn.functional.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x)
        )
        x = self.norm(x + self.output(attended))
        x = self.last_norm(x + self.down(nn.functional.gelu(self.up(x))))
        logits: Tensor = self.head(x.mean(1))  # (batch, classes)
        return logits


class _Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(_WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        logits: Tensor = self.head(self.norm(x + attended).mean(1))
        return logits


class _Convolutions(nn.Module):
    """Convolutions of 1 to 3 dimensions: a kernel of 3, a stride, groups, a kernel of 1."""

    def __init__(self, dimensions: int, *, groups: int = 1, last_groups: int = 1) -> None:
        super().__init__()
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.stem = layer(4, _WIDTH, 3, padding=1)
        self.middle = layer(_WIDTH, _WIDTH, 3, stride=2, padding=1, groups=groups)
        # peft 0.21.2 cannot merge a kernel of 1x1x1.
        kernel = 3 if last_groups > 1 or dimensions == 3 else 1  # noqa: PLR2004
        self.last = layer(_WIDTH, _WIDTH, kernel, padding=kernel // 2, groups=last_groups)
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.stem(x))
        x = nn.functional.gelu(self.middle(x))
        x = self.last(x).flatten(2).mean(2)  # (batch, width)
        logits: Tensor = self.head(self.norm(x))
        return logits


_BUILDERS: Final[dict[str, Callable[[], nn.Module]]] = {
    **dict.fromkeys(("linear", "embedding", "normalization"), _Tokens),
    "attention": _Multihead,
    "conv1d": partial(_Convolutions, 1),
    "conv2d": partial(_Convolutions, 2),
    "grouped": partial(_Convolutions, 2, groups=4, last_groups=_WIDTH),
    "conv3d": partial(_Convolutions, 3),
}
_SHAPES: Final = {
    "attention": (_BATCH, _LENGTH, _WIDTH),
    "conv1d": (_BATCH, 4, 8),
    "conv2d": (_BATCH, 4, 8, 8),
    "grouped": (_BATCH, 4, 8, 8),
    "conv3d": (_BATCH, 4, 8, 8, 8),
}
"""Of inputs that are no tokens."""


def build(name: str) -> nn.Module:
    """Build a network by its name; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _BUILDERS[name]()


def batch(situation: Situation) -> dict[str, Tensor]:
    """Return the inputs of a network and labels; the same each time."""
    name, generator = situation.network, torch.Generator().manual_seed(_SEED)
    if _BUILDERS.get(name) is _Tokens:
        inputs = torch.randint(_WORDS, (_BATCH, _LENGTH), generator=generator)
    else:
        inputs = torch.randn(_SHAPES[name], generator=generator)
        inputs = inputs.to(getattr(torch, situation.dtype))
    labels = torch.randint(CLASSES, inputs.shape[:1], generator=generator)
    return {"inputs": inputs, "labels": labels}


# --- Adapters -------------------------------------------------------------------------------------


def network(situation: Situation) -> nn.Module:
    """Return the network of a situation in its number type, without an adapter."""
    return build(situation.network).to(getattr(torch, situation.dtype)).eval()


def wrapped(situation: Situation) -> nn.Module:
    """Return a network with a fresh adapter."""
    names = NETWORKS[situation.network].targets
    options = _autocast(import_module("peft").get_peft_model, situation)
    method = find_method(situation.method)
    return method.wrap(network(situation), names, situation.settings, seed=_SEED, **options)


def loaded(situation: Situation, folder: Path) -> nn.Module:
    """Return a network with the adapter that a folder has; raises what peft raises."""
    options = _autocast(import_module("peft").PeftModel.from_pretrained, situation)
    method = find_method(situation.method)
    return method.read(network(situation), folder, seed=_SEED, **options).eval()


def _autocast(function: Any, situation: Situation) -> dict[str, bool]:
    """Return peft's argument, or nothing where a release has none and casts no adapter."""
    name = "autocast_adapter_dtype"
    if name in inspect.signature(function).parameters:
        return {name: situation.autocast}
    if situation.autocast:
        raise UnsupportedCaseError(f"peft {import_module('peft').__version__} has no {name}")
    return {}


def fill(adapted: nn.Module, situation: Situation, *, times: float) -> None:
    """Fill what trains with seeded numbers: most adapters start as zero and would hide an error."""
    of_scales, scales = times * _SCALE_SPREAD, find_method(situation.method).scales
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            drawn = torch.randn(parameter.shape, generator=generator)
            if any(part in name for part in scales) or "magnitude" in name:
                parameter.mul_((1 + of_scales * drawn).to(parameter.dtype))
            elif f".{ADAPTER}" in name:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(times * drawn / math.sqrt(fan_in))
            else:  # a bias of the base
                parameter.add_((of_scales * drawn).to(parameter.dtype))
