"""Train an adapter for a few steps, and count what a step costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_fuzz.checklist import networks
from peft_fuzz.checklist.adapting import wrapped
from peft_fuzz.checklist.situations import Situation, find_method
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.cost import profile_training_step

ROUNDING: Final = 1e-7
"""Of a float32, relative: as much as another order of the same sums moves a number."""
_STEPS: Final = 8
_SEED: Final = 0
_COSTS: Final = ("forward_flops", "backward_flops", "peak_bytes")


def losses_of(situation: Situation, *, moved: float = 0.0) -> list[float]:
    """Return the losses of a short training from a fresh adapter; see `training_steps`."""
    return [loss for loss, _ in islice(training_steps(situation, moved=moved), _STEPS)]


def training_steps(situation: Situation, *, moved: float = 0.0) -> Iterator[tuple[float, float]]:
    """Yield the loss and the seconds of each step of a training from a fresh adapter.

    Each weight is first moved by a seeded number of the relative size `moved`.
    """
    method, adapted, batch = _prepared(situation)
    if moved:
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            for parameter in adapted.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + moved * drawn)
    optimizer = method.make_optimizer(adapted, rank=situation.rank)
    torch.manual_seed(_SEED)
    while True:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with method.wrapping():
            loss = _loss(adapted, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield float(loss), time.perf_counter() - start


def costs_of(situation: Situation, *, fake: bool) -> dict[str, int]:
    """Return FLOPs and bytes of one training step."""
    method, adapted, batch = _prepared(situation)
    make_optimizer = partial(method.make_optimizer, rank=situation.rank)
    cost = profile_training_step(adapted, make_optimizer, batch=batch, loss=_loss, fake=fake)
    return {name: getattr(cost, name) for name in _COSTS}


def _prepared(situation: Situation) -> tuple[PeftAdapter, nn.Module, dict[str, Tensor]]:
    """Return the method, its adapter set to train, and the batch.

    BatchNorm keeps its statistics, as in the catalogue.
    """
    method = find_method(situation.method)
    model = wrapped(situation, method).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return method, model, networks.batch(situation.network, getattr(torch, situation.dtype))


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = cast("Tensor", model(batch["inputs"])).float()
    return torch.nn.functional.cross_entropy(logits, batch["labels"])
