"""Steps after a training: what they cost, and whether they can be taken from what was saved.

They are taken on the probe, once nothing else needs the trained model.
"""

import copy
import dataclasses
import io
import itertools
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from peft_regress.cost.stand_ins import cloner, with_tensors
from peft_regress.errors import NonFiniteLossError
from peft_regress.measure.invariants import facts
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.outputs import check_loss
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import seed_all, training_steps, undisturbed

CONTINUED: Final = ("resumed_equals_uninterrupted", "late_step_costs_same")
# The second loss shows an update, the third what that left in the optimizer.
_STEPS: Final = 3
_LATE: Final = 2  # in one of them a projection is not renewed


class _Cost(NamedTuple):
    operators: int
    flops: Mapping[str, int]
    """By module; 'Global' is all."""


@dataclass
class Continuing:
    """Take two steps of a training apart from it, and some more after its end."""

    _recipe: Recipe
    _base: nn.Module  # unadapted, stays as it is
    _probe: Any  # the batch of each step
    _second: _Cost | None = None

    @undisturbed()
    def before_training(self, adapted: nn.Module) -> None:
        """Take two steps of a copy of the adapted model; what they raise, the training does."""

        def second() -> _Cost:
            model = with_tensors(adapted, cloner())
            optimizer = self._recipe.make_optimizer(model)
            steps = self._steps(model, optimizer, self._schedule_of(optimizer))
            next(steps)
            return _cost_of(steps)

        self._second = facts.attempt(second)

    @undisturbed()
    def after_training(self, trained: nn.Module, optimizer: Optimizer) -> dict[str, Fact]:
        """Train on; the model is not used afterwards."""
        late: list[_Cost] = []

        @facts.judged
        def resumed() -> None:
            with facts.refused("trained on", NonFiniteLossError):
                for group in optimizer.param_groups:  # a schedule ends at a rate of zero
                    group["lr"] = group.get("initial_lr", group["lr"])
                schedule = self._schedule_of(optimizer)
                steps = self._steps(trained, optimizer, schedule)
                late.extend(_cost_of(steps) for _ in range(_LATE))
                self._resume(trained, optimizer, schedule, steps)

        found = resumed()
        costs_same = self._costs_same(late) if len(late) == _LATE else found
        return dict(zip(CONTINUED, (found, costs_same), strict=True))

    def _steps(
        self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler | None
    ) -> Iterator[float]:
        """Yield the losses of steps on the probe, with the same draws in each step."""
        made = None if schedule is None else lambda _: schedule
        loop = dataclasses.replace(self._recipe.loop, steps=_LATE + _STEPS, schedule=made)
        seed = self._recipe.seeds[0]
        taken = training_steps(model, optimizer, itertools.repeat(self._probe), loop, seed=seed)
        while True:
            seed_all(seed)
            yield next(taken)[0]

    def _schedule_of(self, optimizer: Optimizer) -> LRScheduler | None:
        make = self._recipe.loop.schedule
        return None if make is None else make(optimizer)

    @facts.judged
    def _costs_same(self, late: list[_Cost]) -> None:
        second = self._second
        if second is None:
            raise facts.null("two steps on the probe, before the training, raise an error")
        operators = min(cost.operators for cost in late)
        flops = min((cost.flops for cost in late), key=lambda found: found.get("Global", 0))
        more = [name for name, count in flops.items() if count > second.flops.get(name, 0)]
        step = f"a step after {self._recipe.fine_tune.steps} takes"
        if more:
            layer = max(more, key=lambda name: name.count("."))
            raise facts.false(
                f"{step} {flops.get('Global', 0):,} FLOPs, the second "
                f"{second.flops.get('Global', 0):,}; first in {layer}",
                tensors=more,
            )
        if operators > second.operators:
            raise facts.false(f"{step} {operators} operators, the second {second.operators}")

    def _resume(
        self,
        trained: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        steps: Iterator[float],
    ) -> None:
        """Save what trains, take further steps, and take them again from what was saved."""
        recipe = self._recipe
        if why := recipe.adapter.loads_for_use_only:
            raise facts.null(why)
        if optimizer._optimizer_step_post_hooks or optimizer._optimizer_step_pre_hooks:  # noqa: SLF001
            raise facts.null("the optimizer has hooks, whose state it does not save")
        states = [part.state_dict() for part in (optimizer, schedule) if part is not None]
        saved = io.BytesIO()
        cannot = "the optimizer or its schedule cannot be saved"
        with facts.refused(cannot, AttributeError, TypeError, pickle.PicklingError):
            torch.save(states, saved)
        saved.seek(0)
        with tempfile.TemporaryDirectory() as folder:
            recipe.adapter.save(trained, Path(folder))
            wanted = list(itertools.islice(steps, _STEPS))
            base = copy.deepcopy(self._base)
            model = recipe.adapter.load(base, Path(folder), trainable=True)
            fresh = recipe.make_optimizer(model)
            again = self._schedule_of(fresh)
            parts: list[Any] = [part for part in (fresh, again) if part is not None]
            # What this process has just written.
            loaded = torch.load(saved, weights_only=False)
            for part, state in zip(parts, loaded, strict=True):
                part.load_state_dict(state)
            found = list(itertools.islice(self._steps(model, fresh, again), _STEPS))
        for step, (one, other) in enumerate(zip(found, wanted, strict=True), start=1):
            note = f"the loss of step {step} is {one:.7g} when resumed, {other:.7g} otherwise"
            check_loss(one, other, note)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _cost_of(steps: Iterator[float]) -> _Cost:
    """Take a step, and count what it runs."""
    operators = _Operators()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as flops, operators:
        next(steps)
    by_module = {name: sum(found.values()) for name, found in flops.get_flop_counts().items()}
    return _Cost(operators.count, by_module)
