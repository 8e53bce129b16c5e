"""What lies beyond the watched steps: the epoch's end, an evaluation, where the rate goes."""

import contextlib
import gc
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from peft_regress.measure.scripts.observation import Step
from peft_regress.project.script import Event

STEPS_BESIDE: Final = 2
"""How many steps are recorded before an event, and how many after it."""
_MOST_STEPS: Final = 10_000
"""How far a schedule is followed."""


class Horizon:
    """Follows the loaders of data, and knows when an epoch ended and when an evaluation came."""

    def __init__(self) -> None:
        self.steps_before: dict[Event, int] = {}
        """The optimizer steps before the first of each event."""
        self._loader: DataLoader[Any] | None = None
        """The one that was iterated last before the first backward pass: that of the training."""
        self.steps = self.passes = 0
        """Optimizer steps and backward passes so far."""
        self._passes_before = 0
        """Those before the last epoch began."""

    def follow_loaders(self, safely: Callable[..., object]) -> None:
        """Note each iteration over a `DataLoader`, for the whole process."""
        iterate = DataLoader.__iter__

        def watched_iter(loader: DataLoader[Any]) -> Any:
            safely(self._begin, loader)
            return iterate(loader)

        DataLoader.__iter__ = watched_iter  # type: ignore[method-assign]

    def _begin(self, loader: DataLoader[Any]) -> None:
        if not self.passes:
            self._loader = loader
        # Some scripts make a new loader of the same data for each epoch.
        elif self._loader is not None and loader.dataset is self._loader.dataset:
            if self.passes > self._passes_before:
                self.note("epoch")
            self._passes_before = self.passes

    def note(self, event: Event) -> None:
        """Note an event that came now; only its first one after a step counts."""
        if self.steps:
            self.steps_before.setdefault(event, self.steps)

    def unseen(self, steps: Sequence[Step], optimizer: Optimizer | None) -> Iterator[str]:
        """Say what the recorded steps cannot show, and what would."""
        if not steps or optimizer is None:
            return
        yield from _of_rates(steps, optimizer)
        if "evaluation" not in self.steps_before:
            yield 'no evaluation: until="evaluation" records the steps around the first'
        if "epoch" in self.steps_before:
            return
        batches = self._batches()
        after = f" after step {math.ceil(batches * self.steps / self.passes)}" if batches else ""
        yield f'no end of an epoch: until="epoch" records the steps around the first{after}'

    def _batches(self) -> int | None:
        """Return how many batches an epoch has; None if that is unknown."""
        with contextlib.suppress(Exception):  # a data set may have no length
            return None if self._loader is None else len(self._loader)
        return None


def _of_rates(steps: Sequence[Step], optimizer: Optimizer) -> Iterator[str]:
    """Say where the learning rate goes from here."""
    rates = [max(step.rates, default=0.0) for step in steps]
    is_rising = rates[-1] > rates[0]
    if not is_rising and len(set(rates)) > 1:
        return
    turns = operator.lt if is_rising else operator.ne
    pairs = enumerate(itertools.pairwise(_later_rates(steps, optimizer)), steps[-1].number)
    turn = next((number for number, (was, now) in pairs if turns(now, was)), None)
    what = "still rises" if is_rising else "is constant"
    way = "" if turn is None else f" until step {turn}: steps={turn + 1} shows what comes then"
    yield f"the learning rate {what}{way}"


def _later_rates(steps: Sequence[Step], optimizer: Optimizer) -> list[float]:
    """Return the highest rate of the last step and those after it, by the optimizer's schedule.

    No more than the last if it is stepped once an epoch. The schedule is used up at the end.
    """
    found = [max(steps[-1].rates, default=0.0)]
    schedules = [one for one in gc.get_objects() if issubclass(type(one), LRScheduler)]
    inner = {id(part) for one in schedules for part in getattr(one, "_schedulers", ())}
    for schedule in schedules:
        is_by_step = schedule.last_epoch >= steps[-1].number - 1
        if schedule.optimizer is optimizer and id(schedule) not in inner and is_by_step:
            # Some need the loss of an evaluation.
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                for _ in range(_MOST_STEPS):
                    schedule.step()
                    found.append(max(float(group["lr"]) for group in optimizer.param_groups))
            break
    return found
