"""The progress line: how far a run is, how long it may take, which case runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peft_regress.report.layout import cells
from peft_regress.report.pace import seconds_left, time_left
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.report.layout import Layout


@dataclass
class Progress:
    """How far a run is; all times are seconds of one clock."""

    cases: dict[str, str] = field(default_factory=dict)
    """Case ids by the name of their test."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each case took in the last run."""
    workers: int = 1
    running: dict[str, float] = field(default_factory=dict)
    """When each running test started."""
    done: dict[str, float] = field(default_factory=dict)
    """Seconds of each finished case."""
    _seconds: dict[str, float] = field(default_factory=dict)

    def start(self, test: str, now: float) -> None:
        """Note that a test starts. Tests without a case are ignored."""
        if test in self.cases:
            self.running[test] = now

    def spend(self, test: str, seconds: float) -> None:
        """Add the time of one phase of a test."""
        self._seconds[test] = self._seconds.get(test, 0.0) + seconds

    def finish(self, test: str) -> None:
        """Note that a test has finished."""
        if test in self.cases:
            self.running.pop(test, None)
            self.done[self.cases[test]] = self._seconds.get(test, 0.0)

    @property
    def left(self) -> int:
        """Return how many cases have not finished."""
        return len(self.cases) - len(self.done)

    def line(self, now: float, layout: Layout) -> str:
        """Return one line that fits the width; counts come first, since the end may be cut."""
        done, count = len(self.done), len(self.cases)
        waiting = {case: 0.0 for case in self.cases.values() if case not in self.done}
        spent = {self.cases[test]: now - start for test, start in self.running.items()}
        seconds = seconds_left({**waiting, **spent}, self.done, self.before, workers=self.workers)
        time = [] if seconds is None else [time_left(seconds)]
        first = clean(next(iter(spent), ""))
        which = f"{len(spent)} now: {first}, ..." if len(spent) > 1 else f"now {first}"
        long = ", ".join([f"{done} of {count} cases done", f"{self.left} left", *time])
        brief = ", ".join([f"{done}/{count}", *time])
        lines = [layout.shown(f"{text}; {which}" if spent else text) for text in (long, brief)]
        fitting = (line for line in lines if cells(line) < layout.width)
        return next(fitting, None) or _cut(lines[-1], layout.width - 1)


def _cut(line: str, width: int) -> str:
    end = "..."
    while cells(line) + len(end) > width:
        line = line[:-1]
    return f"{line}{end}"
