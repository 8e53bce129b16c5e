"""Choose what to replace in a model: by what one forward pass keeps, and by the peak of a step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from peft_regress.cost.pricing import TrainingCost, loss_of_output, training_cost
from peft_regress.cost.stand_ins import on_fake_or_real, staged
from peft_regress.cost.storages import storages_of, tensors_in
from peft_regress.memory.lean import Lean, Reason
from peft_regress.memory.operators import (
    OPERATORS,
    Operator,
    has_own_forward,
    operators_of,
    replace,
)

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]

_NEED_VALUES: Final = (
    nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)  # fmt: skip
"""Modules without an operator here, of which torch keeps the input or the output."""


def choose_and_replace(model: nn.Module, batch: Any, loss: Loss | None) -> Lean:
    """Do what `peft_regress.lean` does, and return what it returns."""
    replace(model, {})
    candidates, left = _candidates(model)
    chosen: dict[str, Operator] = {}
    freed: dict[str, int] = {}
    before = after = None
    if batch is None:
        for name, (first, *_) in candidates.items():
            refusal = first.refusal(model.get_submodule(name))
            if refusal is None and first.is_never_worse:
                chosen[name] = first
            else:
                left[name] = refusal or Reason.NOT_MEASURED
    else:
        loss = loss or loss_of_output
        kept = on_fake_or_real(partial(_kept_by, model, batch, loss, candidates))
        smallest = _smallest(candidates, kept, left, freed)
        step = partial(training_cost, model, batch, loss=loss)
        chosen, before, after = _with_lowest_peak(model, smallest, step)
        left |= dict.fromkeys(smallest.keys() - chosen, Reason.NO_LOWER_PEAK)
    replace(model, chosen)
    names = [name for name, _ in model.named_modules()]
    return Lean(
        replaced={name: chosen[name].keeps for name in names if name in chosen},
        left={name: left[name] for name in names if name in left},
        freed_bytes={name: freed[name] for name in names if name in freed and name in chosen},
        plain_peak_bytes=before,
        peak_bytes=after,
        model=model,
    )


def _with_lowest_peak(
    model: nn.Module, chosen: dict[str, Operator], step: Callable[[], TrainingCost]
) -> tuple[dict[str, Operator], int, int]:
    """Return those without which the peak of a step is higher, its peak before and with them."""

    def peak_with(operators: dict[str, Operator]) -> int:
        replace(model, operators)
        try:
            return step().step.peak_bytes
        finally:
            replace(model, {})

    before = lowest = peak_with({})
    with_all = peak_with(chosen) if chosen else before
    if with_all >= before:
        return {}, before, before
    lowest = with_all
    for operator in OPERATORS:
        others = {name: one for name, one in chosen.items() if one is not operator}
        if len(others) < len(chosen) and (peak := peak_with(others)) <= lowest:
            chosen, lowest = others, peak
    return chosen, before, lowest


def _candidates(model: nn.Module) -> tuple[dict[str, list[Operator]], dict[str, Reason]]:
    """Return the operators that can stand for each module, and why others must stay."""
    candidates: dict[str, list[Operator]] = {}
    left: dict[str, Reason] = {}
    kinds = tuple(kind for one in OPERATORS for kind in one.of)
    for name, layer in model.named_modules():
        operators = operators_of(layer)
        if isinstance(layer, kinds) and (not operators or has_own_forward(layer)):
            left[name] = Reason.OWN_FORWARD
        elif operators:
            refusal = operators[0].refusal(layer)
            if refusal in {None, Reason.SETTINGS}:
                candidates[name] = operators
            else:
                left[name] = refusal
        elif any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            left[name] = Reason.TRAINS
        elif isinstance(layer, _NEED_VALUES):
            left[name] = Reason.NEEDS_VALUES
    return candidates, left


@dataclass(frozen=True)
class _Call:
    """A call of a module in a forward pass."""

    module: str
    operators: list[Operator]
    """Those that can compute it."""
    kept: dict[int, int] = field(default_factory=dict)
    """What torch's operator keeps for the backward pass: the bytes of each storage, by `id`."""
    outputs: list[Any] = field(default_factory=list)

    def bytes_beside(self, others: dict[int, int], operator: Operator | None = None) -> int:
        """Return what it keeps beside other storages, by torch's operator or another."""
        if operator is None or operator not in self.operators:
            return sum(nbytes for key, nbytes in self.kept.items() if key not in others)
        y, version = self.outputs
        # What has been changed in place since cannot be kept.
        is_kept_too = all(others.get(id(storage)) == version for storage in storages_of(y))
        return operator.kept_bytes(y, is_kept_too=is_kept_too)


@dataclass(frozen=True)
class _Kept:
    """What a forward pass keeps for the backward pass."""

    calls: list[_Call] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)
    """The versions of the storages that live on without these calls, by `id`."""
    storages: list[Any] = field(default_factory=list)
    """All of them: while they are alive no other gets their `id`."""


def _kept_by(
    model: nn.Module, batch: Any, loss: Loss, candidates: dict[str, list[Operator]], *, fake: bool
) -> _Kept:
    """Watch a forward pass of a copy of a model, and return what the calls of candidates keep."""
    kept, running = _Kept(), list[_Call]()

    def enter(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if len(args) == 1 else None
        running.append(
            _Call(name, [one for one in candidates[name] if not one.is_for_torch(layer, x)])
        )
        kept.calls.append(running[-1])

    def leave(_layer: nn.Module, _args: object, y: Any) -> None:
        running.pop().outputs.extend((y, y._version))  # noqa: SLF001

    def keep(tensor: Tensor) -> Tensor:
        for storage in storages_of(tensor):
            kept.storages.append(storage)
            if running:
                running[-1].kept[id(storage)] = storage.nbytes()
            else:
                kept.others[id(storage)] = tensor._version  # noqa: SLF001
        return tensor

    with staged(model, batch, fake=fake) as stage, torch.enable_grad():
        copied = stage.model
        for tensor in (*copied.parameters(), *copied.buffers(), *tensors_in(stage.batch)):
            keep(tensor)
        for name in candidates:
            layer = copied.get_submodule(name)
            # Next to the operator: what other hooks compute is not the module's.
            layer.register_forward_pre_hook(partial(enter, name))
            layer.register_forward_hook(leave, prepend=True)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(copied, stage.batch)
    return kept


def _smallest(
    candidates: dict[str, list[Operator]],
    kept: _Kept,
    left: dict[str, Reason],
    freed: dict[str, int],
) -> dict[str, Operator]:
    """Return by module the operator that keeps least, if less than torch's.

    Adds to `left` why there is none, and to `freed` how much less, where a storage that two modules
    keep counts for the first.
    """
    chosen, counted = {}, dict(kept.others)
    for name, operators in candidates.items():
        calls = [call for call in kept.calls if call.module == name]
        usual, *costs = (
            sum(call.bytes_beside(kept.others, one) for call in calls) for one in (None, *operators)
        )
        if min(costs) >= usual:
            left[name] = Reason.SETTINGS if usual else Reason.KEEPS_NO_MORE
            continue
        chosen[name] = operators[costs.index(min(costs))]
        freed[name] = sum(call.bytes_beside(counted) for call in calls) - min(costs)
        counted.update((key, 0) for call in calls for key in call.kept)
    return chosen
