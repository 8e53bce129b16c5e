"""Whether a program computes in the runtime what the model computes here."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from peft_regress.measure.edge.export import MODEL, floating_outputs
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.outputs import agree, differing

if TYPE_CHECKING:
    from peft_regress.measure.edge.export import Call, Loss
    from peft_regress.measure.edge.runtime import RanInRuntime, TrainedInRuntime

_DECREASE: Final = 0.01
"""By which share of the loss the first step of SGD would lower it, were it linear: an update that
is wrong shows, and rounding in the gradients is not amplified."""
LOSS_TOLERANCES: Final = (1e-5, 2e-4)
"""Largest difference of a loss, relative to it, by step; of later steps the last. Loss 1 is a
forward pass, loss 2 shows the first update. Cases take no more steps: later losses amplify
rounding, as in PyTorch itself (1.1e-3 at step 4, of LoRA on mobilenet_v2 at 224x224)."""
GRADIENT_TOLERANCE: Final = 0.02
"""Largest norm of a gradient's difference, relative to the gradient's norm. Activations within
rounding of a kink send their gradient another way. Seen: 5.1e-3, of DoRA on mobilenet_v2 at 96x96,
where PyTorch itself is off by 5.1e-3 from float64, and the runtime by 1.2e-3; of a wrong kernel
(max pool of 1.5.1) 1.1e3."""
_SMALLEST_SHARE: Final = 1e-4
"""A gradient whose norm is a smaller share of the largest one's counts as if it had this share:
rounding in the layers above it is not relative to it."""
OUTPUT_TOLERANCE: Final = 3e-5
"""Largest difference of an output, relative to the largest one: that of merging, since kernels sum
in another order too."""


@dataclass(frozen=True, kw_only=True)
class TrainedHere:
    """What the same steps of SGD gave in eager PyTorch."""

    learning_rate: float
    losses: tuple[float, ...]
    first_gradients: Mapping[str, Tensor]
    """By the name of the parameter in the model."""
    last_gradients: Mapping[str, Tensor]


def train_here(model: nn.Module, batches: Sequence[Any], *, loss: Loss) -> TrainedHere:
    """Take a step of SGD on each batch with a copy of a model, in the mode that it is in.

    The learning rate follows from the first gradients.
    """
    model = copy.deepcopy(model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    losses: list[float] = []
    gradients: list[dict[str, Tensor]] = []
    for batch in batches:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()  # type: ignore[no-untyped-call]
        losses.append(found.item())
        gradients.append(
            {
                name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
                for name, each in trained.items()
            }
        )
        if len(losses) == 1:
            optimizer.param_groups[0]["lr"] = _learning_rate(losses[0], gradients[0].values())
        optimizer.step()
    return TrainedHere(
        learning_rate=optimizer.param_groups[0]["lr"],
        losses=tuple(losses),
        first_gradients=gradients[0],
        last_gradients=gradients[-1],
    )


def _learning_rate(loss: float, gradients: Iterable[Tensor]) -> float:
    squares = sum(float(each.double().square().sum()) for each in gradients)
    rate = _DECREASE * abs(loss) / squares if squares else 0.0
    return rate if math.isfinite(rate) else 0.0


def run_here(model: nn.Module, batch: Any, *, call: Call) -> tuple[Tensor, ...]:
    """Run the forward pass of an inference program in eager PyTorch."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return floating_outputs(call(model, batch))


def same_losses(here: TrainedHere, there: TrainedInRuntime) -> Fact:
    """Return whether the losses of all steps agree."""
    pairs = zip(there.losses, here.losses, strict=True)
    off = [_relative(runtime, eager) for runtime, eager in pairs]
    wrong = [
        f"step {step}: {there.losses[step - 1]:.7g}, in PyTorch {here.losses[step - 1]:.7g}"
        for step, difference in enumerate(off, start=1)
        if not difference <= LOSS_TOLERANCES[min(step, len(LOSS_TOLERANCES)) - 1]
    ]
    if not wrong:
        return Fact(holds=True)
    return Fact.false(listed(wrong), size=max(off, key=_gravity))


def same_gradients(here: TrainedHere, there: TrainedInRuntime) -> Fact:
    """Return whether the gradients of the first step agree, naming the parameters that differ.

    The loss of the first step is right even where its backward pass is wrong.
    """
    off = gradient_differences(here.first_gradients, there.first_gradients)
    wrong = {name: each for name, each in off.items() if not each <= GRADIENT_TOLERANCE}
    if not wrong:
        return Fact(holds=True)
    worst = max(wrong.values(), key=_gravity)
    told = f"{len(wrong)} of {len(off)} gradients differ by up to {worst:.2g} of their norm"
    return Fact.false(f"{told}: {listed(list(wrong))}", tensors=list(wrong), size=worst)


def gradient_differences(
    here: Mapping[str, Tensor], there: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return how far each gradient is off, relative to its norm; infinite where one is missing."""
    there = {name.removeprefix(f"{MODEL}."): each for name, each in there.items()}
    norms = {name: float(each.double().norm()) for name, each in here.items()}
    smallest = _SMALLEST_SHARE * max(norms.values(), default=0.0)
    found: dict[str, float] = {}
    for name in {**here, **there}:
        if name not in here or name not in there or here[name].shape != there[name].shape:
            found[name] = math.inf
            continue
        difference = float((there[name].double() - here[name].double()).norm())
        size = max(norms[name], smallest)
        found[name] = difference / size if size else (0.0 if difference == 0 else math.inf)
    return found


def same_outputs(here: tuple[Tensor, ...], there: RanInRuntime) -> Fact:
    """Return whether the outputs of a forward pass agree."""
    one, other = (tuple(t.float() for t in each) for each in (there.outputs, here))
    if agree(one, other, tolerance=OUTPUT_TOLERANCE):
        return Fact(holds=True)
    return differing(one, other)


def _gravity(difference: float) -> tuple[bool, float]:
    """Return the key that sorts differences, NaN last."""
    return math.isnan(difference), difference


def _relative(found: float, expected: float) -> float:
    difference = abs(found - expected)
    return difference / abs(expected) if expected else difference
