"""A worker's own side: it examines adapters."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from peft_fuzz.checklist.messages import (
    Examine,
    Examined,
    Inspect,
    Inspected,
    Start,
    Started,
)
from peft_regress.upgrades.worker import Timed, TimeSteps, timed


def inspect(request: Inspect) -> Inspected:
    """Look at the configuration of a method."""
    from peft_fuzz.checklist.examining import inspect_method

    return inspect_method(request)


def examine(request: Examine) -> Examined:
    """Compute what a situation gives."""
    from peft_fuzz.checklist.examining import examine

    return examine(request)


class Trainer:
    """Keeps the training whose steps are timed."""

    def __init__(self) -> None:
        self._steps: Iterator[tuple[float, float]] = iter(())

    def start(self, request: Start) -> Started:
        """Begin the training of a situation."""
        from peft_fuzz.checklist.training import training_steps

        self._steps = training_steps(request.situation)
        gc.collect()
        return Started()

    def time_steps(self, request: TimeSteps) -> Timed:
        """Take the next steps."""
        return timed(self._steps, request)
