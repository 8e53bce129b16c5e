"""Examine adapters on request: `python -m peft_fuzz.checklist.worker`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from peft_fuzz.checklist.messages import (
    Examine,
    Examined,
    Inspect,
    Inspected,
    Start,
    Started,
)
from peft_regress.upgrades.timing.messages import Timed, TimeSteps
from peft_regress.upgrades.timing.worker import timed
from peft_regress.workers.serve import serve


def handlers() -> Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]]:
    """Return what answers each request; together they keep one training."""
    trainer = _Trainer()
    return {
        Inspect: _inspect,
        Examine: _examine,
        Start: trainer.start,
        TimeSteps: trainer.time_steps,
    }


def _inspect(request: Inspect) -> Inspected:
    from peft_fuzz.checklist.examining import inspect_method

    return inspect_method(request)


def _examine(request: Examine) -> Examined:
    from peft_fuzz.checklist.examining import examine

    return examine(request)


class _Trainer:
    """The training whose steps are timed."""

    def __init__(self) -> None:
        self._steps: Iterator[tuple[float, float]] = iter(())

    def start(self, request: Start) -> Started:
        from peft_fuzz.checklist.training import training_steps

        self._steps = training_steps(request.situation)
        gc.collect()
        return Started()

    def time_steps(self, request: TimeSteps) -> Timed:
        return timed(self._steps, request)


if __name__ == "__main__":
    serve(handlers())
