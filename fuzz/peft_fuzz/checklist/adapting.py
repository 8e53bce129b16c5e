"""Put an adapter of peft on a network, filled with numbers or loaded from a checkpoint."""

from __future__ import annotations

import inspect
import math
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_fuzz.checklist import networks
from peft_fuzz.checklist.situations import KNOWN_NETWORKS, Situation
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.errors import UnsupportedCaseError

_SEED: Final = 0
# Enough to move the logits by about as much as they are: an architecture has twenty layers.
_SPREAD: Final = {True: 0.1, False: 1.0}
_SCALE_SPREAD: Final = 0.1


def network(situation: Situation) -> nn.Module:
    """Return the network of a situation in its number type, without an adapter."""
    return networks.build(situation.network).to(getattr(torch, situation.dtype)).eval()


def wrapped(situation: Situation, method: PeftAdapter) -> nn.Module:
    """Return a network with a fresh adapter.

    Raises `UnsupportedCaseError` if peft lacks the method or the network a target, and what peft
    raises.
    """
    model = network(situation)
    names = networks.targets(situation.network, model, method)
    options = _autocast(import_module("peft").get_peft_model, situation)
    return method.wrap(model, names, situation.settings, seed=_SEED, **options)


def loaded(situation: Situation, method: PeftAdapter, folder: Path) -> nn.Module:
    """Return a network with the adapter that a folder has; raises what peft raises."""
    options = _autocast(import_module("peft").PeftModel.from_pretrained, situation)
    return method.read(network(situation), folder, seed=_SEED, **options).eval()


def _autocast(function: Any, situation: Situation) -> dict[str, bool]:
    """Return peft's argument, or nothing where a release has none and casts no adapter."""
    name = "autocast_adapter_dtype"
    if name in inspect.signature(function).parameters:
        return {name: situation.autocast}
    if situation.autocast:
        raise UnsupportedCaseError(f"peft {import_module('peft').__version__} has no {name}")
    return {}


def fill(adapted: nn.Module, situation: Situation, method: PeftAdapter, *, times: float) -> None:
    """Fill what trains with seeded numbers: most adapters start as zero and would hide an error.

    times: how much larger they are than usual.
    """
    spread = times * _SPREAD[KNOWN_NETWORKS[situation.network].is_architecture]
    of_scales = times * _SCALE_SPREAD
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            drawn = torch.randn(parameter.shape, generator=generator)
            if any(part in name for part in method.scales) or "magnitude" in name:
                parameter.mul_((1 + of_scales * drawn).to(parameter.dtype))
            elif f".{ADAPTER}" in name:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(drawn * spread / math.sqrt(fan_in))
            else:  # a bias of the base
                parameter.add_((of_scales * drawn).to(parameter.dtype))


def type_name(tensor: Tensor) -> str:
    """Return the number type of a tensor."""
    return str(tensor.dtype).removeprefix("torch.")


def types_of(adapted: nn.Module) -> dict[str, str]:
    """Return the number type of each parameter of the adapter, by name."""
    return {
        name: type_name(parameter)
        for name, parameter in adapted.named_parameters()
        if f".{ADAPTER}" in name and parameter.is_floating_point()
    }
