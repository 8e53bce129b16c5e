"""Choose what to replace in a model: by what one forward pass keeps, and by the peak of a step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, UntypedStorage, nn
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
    plain_peak = peak = None
    freed: dict[str, int] = {}
    chosen: dict[str, Operator] = {}
    if batch is None:
        for name, operators in candidates.items():
            refusal = operators[0].refusal(model.get_submodule(name))
            if refusal is None and operators[0].is_never_worse:
                chosen[name] = operators[0]
            else:
                left[name] = refusal or Reason.NOT_MEASURED
    else:
        loss = loss or loss_of_output
        watch = on_fake_or_real(partial(_watched, model, batch, loss, candidates))
        chosen, freed = watch.smallest()
        left |= dict.fromkeys(watch.keeps_more - chosen.keys(), Reason.SETTINGS)
        left |= dict.fromkeys(candidates.keys() - watch.keeps_more, Reason.KEEPS_NO_MORE)
        step = partial(training_cost, model, batch, loss=loss)
        lower, plain_peak, peak = _with_lowest_peak(model, chosen, step)
        left |= dict.fromkeys(chosen.keys() - lower, Reason.NO_LOWER_PEAK)
        chosen = lower
    replace(model, chosen)
    names = [name for name, _ in model.named_modules()]
    return Lean(
        {name: chosen[name].keeps for name in names if name in chosen},
        {name: left[name] for name in names if name in left},
        {name: freed[name] for name in names if name in freed and name in chosen},
        plain_peak,
        peak,
        model,
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

    def bytes_beside(self, others: set[int], operator: Operator | None = None) -> int:
        """Return what it keeps beside other storages, by torch's operator or another."""
        if operator is None or operator not in self.operators:
            return sum(nbytes for key, nbytes in self.kept.items() if key not in others)
        (y,) = self.outputs
        is_kept_too = all(id(storage) in others for storage in storages_of(y))
        return operator.kept_bytes(y, is_kept_too=is_kept_too)


class _Watch:
    """What a forward pass keeps for the backward pass, by the calls of candidates."""

    def __init__(self, candidates: dict[str, list[Operator]]) -> None:
        self._candidates = candidates
        self._calls: list[_Call] = []
        self._running: list[_Call] = []
        self._others: set[int] = set()
        """The storages that live on without these calls, by `id`."""
        self._storages: list[UntypedStorage] = []  # alive, so that no other gets their `id`
        self.keeps_more: set[str] = set()
        """The modules by whose operator alone a storage lives on."""

    def run(self, model: nn.Module, batch: Any, loss: Loss) -> None:
        """Watch a forward pass of a copy of the model."""
        for tensor in (*model.parameters(), *model.buffers(), *tensors_in(batch)):
            self._keep(tensor)
        for name in self._candidates:
            layer = model.get_submodule(name)
            # Next to the operator: what other hooks compute is not the module's.
            layer.register_forward_pre_hook(partial(self._enter, name))
            layer.register_forward_hook(self._leave, prepend=True)
        with saved_tensors_hooks(self._keep, lambda tensor: tensor):
            loss(model, batch)

    def _enter(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if len(args) == 1 else None
        fitting = [one for one in self._candidates[name] if not one.is_for_torch(layer, x)]
        self._running.append(_Call(name, fitting))
        self._calls.append(self._running[-1])

    def _leave(self, _layer: nn.Module, _args: object, y: Any) -> None:
        self._running.pop().outputs.append(y)

    def _keep(self, tensor: Tensor) -> Tensor:
        for storage in storages_of(tensor):
            self._storages.append(storage)
            if self._running:
                self._running[-1].kept[id(storage)] = storage.nbytes()
            else:
                self._others.add(id(storage))
        return tensor

    def smallest(self) -> tuple[dict[str, Operator], dict[str, int]]:
        """Return by module the operator that keeps least, if less than torch's, and how much less.

        A storage that two modules keep counts for the first.
        """
        chosen, freed, counted = {}, {}, set(self._others)
        for name, operators in self._candidates.items():
            calls = [call for call in self._calls if call.module == name]
            usual, *costs = (
                sum(call.bytes_beside(self._others, one) for call in calls)
                for one in (None, *operators)
            )
            if usual:
                self.keeps_more.add(name)
            if min(costs) < usual:
                chosen[name] = operators[costs.index(min(costs))]
                freed[name] = sum(call.bytes_beside(counted) for call in calls) - min(costs)
                counted.update(key for call in calls for key in call.kept)
        return chosen, freed


def _watched(
    model: nn.Module, batch: Any, loss: Loss, candidates: dict[str, list[Operator]], *, fake: bool
) -> _Watch:
    watch = _Watch(candidates)
    with staged(model, batch, fake=fake) as stage, torch.enable_grad():
        watch.run(stage.model, stage.batch, loss)
    return watch
