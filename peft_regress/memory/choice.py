"""Choose what to replace in a model: by what one forward pass keeps, and by the peak of a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from peft_regress.cost.pricing import loss_of_output, training_cost
from peft_regress.cost.stand_ins import on_fake_or_real, staged
from peft_regress.cost.storages import storages_of, tensors_in
from peft_regress.memory.lean import Lean, Left, Reason, Replaced
from peft_regress.memory.operators import (
    OPERATORS,
    Operator,
    has_own_forward,
    is_for_torch,
    operators_for,
    replace,
    restore,
)

Loss = Callable[[nn.Module, Any], Tensor]

_NEED_VALUES: Final = (
    nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)  # fmt: skip
"""Modules without an operator here, of which torch keeps the input or the output."""


@dataclass
class _Plan:
    """What is known of a model's modules, by name."""

    model: nn.Module
    candidates: dict[str, list[Operator]] = field(default_factory=dict)
    chosen: dict[str, Operator] = field(default_factory=dict)
    left: dict[str, Reason] = field(default_factory=dict)

    def put_back(self, names: list[str], reason: Reason) -> None:
        for name in names:
            restore(self.model.get_submodule(name))
            del self.chosen[name]
            self.left[name] = reason

    def put_in(self, names: list[str], operators: Mapping[str, Operator]) -> None:
        for name in names:
            replace(self.model.get_submodule(name), operators[name])
            self.chosen[name] = operators[name]
            self.left.pop(name, None)

    def result(self, freed: Mapping[str, int], before: int | None, after: int | None) -> Lean:
        kinds = {name: type(layer).__name__ for name, layer in self.model.named_modules()}
        replaced = tuple(
            Replaced(name, kinds[name], self.chosen[name].keeps, freed.get(name))
            for name in kinds
            if name in self.chosen
        )
        left = tuple(Left(name, kinds[name], self.left[name]) for name in kinds if name in self.left)
        return Lean(replaced, left, before, after, self.model)


def choose_and_replace(model: nn.Module, batch: Any, loss: Loss | None) -> Lean:
    """Do what `peft_regress.lean` does, and return what it returns."""
    restore(model)
    plan = _sorted_modules(model)
    if batch is None:
        _choose_by_rule(plan)
        return plan.result({}, None, None)
    loss = loss or loss_of_output

    def peak() -> int:
        return training_cost(model, batch, loss=loss).step.peak_bytes

    try:
        before = peak()
        freed = _choose_by_what_is_kept(plan, batch, loss)
        after = peak() if plan.chosen else before
        if after >= before:
            plan.put_back([*plan.chosen], Reason.NO_LOWER_PEAK)
            return plan.result(freed, before, before)
        for operator in OPERATORS:
            trial = {name: one for name, one in plan.chosen.items() if one is operator}
            plan.put_back([*trial], Reason.NO_LOWER_PEAK)
            without = peak() if trial else after
            if without > after:
                plan.put_in([*trial], trial)
            after = min(after, without)
    except BaseException:
        restore(model)
        raise
    return plan.result(freed, before, after)


def _sorted_modules(model: nn.Module) -> _Plan:
    """Tell modules that operators can stand for from those that must stay as they are."""
    plan = _Plan(model)
    known = tuple(kind for one in OPERATORS for kind in one.of)
    for name, layer in model.named_modules():
        operators = operators_for(layer)
        is_whole = not any(layer.children())
        if isinstance(layer, known) and not (operators and is_whole and not has_own_forward(layer)):
            plan.left[name] = Reason.OWN_FORWARD
        elif operators:
            reasons = [one.refusal(layer) for one in operators]
            fitting = [one for one, reason in zip(operators, reasons, strict=True) if not reason]
            if fitting:
                plan.candidates[name] = fitting
            elif reasons[0] is not None:
                plan.left[name] = reasons[0]
        elif any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            plan.left[name] = Reason.TRAINS
        elif isinstance(layer, _NEED_VALUES):
            plan.left[name] = Reason.NEEDS_VALUES
    return plan


def _choose_by_rule(plan: _Plan) -> None:
    for name, operators in plan.candidates.items():
        chosen = next((one for one in operators if not one.needs_batch), None)
        if chosen is None:
            plan.left[name] = Reason.UNKNOWN_USE
        else:
            plan.put_in([name], {name: chosen})


@dataclass(frozen=True)
class _Call:
    """A call of a module in a forward pass."""

    module: str
    operators: tuple[Operator, ...]
    """Those that could compute it."""
    kept: dict[int, int] = field(default_factory=dict)
    """What torch's operator keeps for the backward pass: the bytes of each storage."""
    outputs: list[Any] = field(default_factory=list)

    def usual_bytes(self, kept_anyway: set[int]) -> int:
        """Return the bytes that it alone keeps."""
        return sum(nbytes for key, nbytes in self.kept.items() if key not in kept_anyway)

    def bytes_by(self, operator: Operator, kept_anyway: set[int]) -> int:
        """Return the bytes that it alone would keep by an operator."""
        if operator not in self.operators:
            return self.usual_bytes(kept_anyway)
        (y,) = self.outputs
        is_kept = all(id(storage) in kept_anyway for storage in storages_of(y))
        return operator.kept_bytes(y, is_kept_anyway=is_kept)


class _Watch:
    """What a forward pass keeps for the backward pass, by the calls of some modules."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self.calls: list[_Call] = []
        self.kept_anyway: set[int] = set()
        """Storages that live as long without these calls, by `id`."""
        self._running: list[_Call] = []
        self._storages: list[UntypedStorage] = []  # alive, so that no other gets their `id`

    def run(self, model: nn.Module, batch: Any, loss: Loss) -> None:
        """Watch a forward pass of a copy of the model."""
        for tensor in (*model.parameters(), *model.buffers(), *tensors_in(batch)):
            self._keep(tensor)
        for name in self._plan.candidates:
            layer = model.get_submodule(name)
            # Next to the operator: what other hooks compute is theirs.
            layer.register_forward_pre_hook(partial(self._enter, name))
            layer.register_forward_hook(self._leave, prepend=True)
        with saved_tensors_hooks(self._keep, lambda tensor: tensor):
            loss(model, batch)

    def _enter(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        operators = self._plan.candidates[name]
        x = args[0] if len(args) == 1 else None
        fits = () if is_for_torch(x) else tuple(one for one in operators if one.takes(layer, x))
        self._running.append(_Call(name, fits))
        self.calls.append(self._running[-1])

    def _leave(self, _layer: nn.Module, _args: object, y: Any) -> None:
        self._running.pop().outputs.append(y)

    def _keep(self, tensor: Tensor) -> Tensor:
        for storage in storages_of(tensor):
            self._storages.append(storage)
            if self._running:
                self._running[-1].kept[id(storage)] = storage.nbytes()
            else:
                self.kept_anyway.add(id(storage))
        return tensor


def _watched(plan: _Plan, batch: Any, loss: Loss, *, fake: bool) -> _Watch:
    watch = _Watch(plan)
    with staged(plan.model, batch, fake=fake) as stage, torch.enable_grad():
        watch.run(stage.model, stage.batch, loss)
    return watch


def _choose_by_what_is_kept(plan: _Plan, batch: Any, loss: Loss) -> dict[str, int]:
    """Replace what then keeps less by itself, and return how much less, by module."""
    watch = on_fake_or_real(partial(_watched, plan, batch, loss))
    kept_anyway, counted = watch.kept_anyway, set(watch.kept_anyway)
    freed: dict[str, int] = {}
    for name, operators in plan.candidates.items():
        calls = [call for call in watch.calls if call.module == name]
        usual = sum(call.usual_bytes(kept_anyway) for call in calls)
        costs = {one: sum(call.bytes_by(one, kept_anyway) for call in calls) for one in operators}
        best = min(costs, key=lambda one: costs[one])
        if costs[best] >= usual:
            plan.left[name] = Reason.SETTINGS if usual else Reason.KEPT_ANYWAY
            continue
        plan.put_in([name], {name: best})
        freed[name] = sum(call.usual_bytes(counted) for call in calls) - costs[best]
        counted.update(key for call in calls for key in call.kept)
    return freed
