"""Train blocks of steps of one case on request.

Started as `python -m peft_regress.upgrades.timing.worker`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.upgrades.timing.messages import Restart, Restarted, Timed, TimeSteps
from peft_regress.workers.messages import Prepare, Prepared
from peft_regress.workers.serve import recipe_of, serve

if TYPE_CHECKING:
    from peft_regress.measure.data import Data
    from peft_regress.measure.recipe import Recipe


def handlers() -> Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]]:
    """Return what answers each request; together they keep one case."""
    trainer = _Trainer()
    return {Prepare: trainer.prepare, Restart: trainer.restart, TimeSteps: trainer.time_steps}


class _Trainer:
    """The case that is being timed; `prepare` imports torch."""

    def __init__(self) -> None:
        self._recipe: Recipe
        self._data: Data
        self._steps: Iterator[tuple[float, float]] = iter(())

    def prepare(self, request: Prepare) -> Prepared:
        from peft_regress.measure import define

        self._recipe = recipe_of(request)
        definition = define(self._recipe)
        self._data = self._recipe.load_data()
        return Prepared(definition=definition)

    def restart(self, request: Restart) -> Restarted:
        # A fresh model: training changes step times (rates fall, projections are refreshed).
        self._steps = self._recipe.steps(self._data, seed=request.seed)
        # The model before this one is in reference cycles; do not collect them during a step.
        gc.collect()
        return Restarted()

    def time_steps(self, request: TimeSteps) -> Timed:
        return timed(self._steps, request)


def timed(steps: Iterator[tuple[float, float]], request: TimeSteps) -> Timed:
    """Take the next steps of a training, each (loss, seconds), and return their times."""
    from peft_regress.measure.training import single_thread

    with single_thread():
        taken = list(islice(steps, request.steps))
    return Timed(step_seconds=[seconds for _, seconds in taken])


if __name__ == "__main__":
    serve(handlers())
