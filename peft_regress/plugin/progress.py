"""The progress line: how far a run is, and which case runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft_regress.report.layout import Layout, cells
from peft_regress.text import clean


@dataclass
class Progress:
    """How far a run is."""

    cases: dict[str, str] = field(default_factory=dict)
    """Case ids by the name of their test."""
    running: list[str] = field(default_factory=list)
    """The tests that run, in the order of their start."""
    done: set[str] = field(default_factory=set)
    """The ids of the finished cases."""

    def start(self, test: str) -> None:
        """Note that a test starts. Tests without a case are ignored."""
        if test in self.cases:
            self.running.append(test)

    def finish(self, test: str) -> None:
        """Note that a test has finished."""
        if test in self.cases:
            self.running = [each for each in self.running if each != test]
            self.done.add(self.cases[test])

    @property
    def left(self) -> int:
        """Return how many cases have not finished."""
        return len(self.cases) - len(self.done)

    def line(self, layout: Layout) -> str:
        """Return one line that fits the width; counts come first, since the end may be cut."""
        done, count, running = len(self.done), len(self.cases), len(self.running)
        first = clean(self.cases[self.running[0]]) if running else ""
        which = f"{running} now: {first}, ..." if running > 1 else f"now {first}"
        counts = (f"{done} of {count} cases done, {self.left} left", f"{done}/{count}")
        lines = [layout.shown(f"{text}; {which}" if running else text) for text in counts]
        fitting = (line for line in lines if cells(line) < layout.width)
        return next(fitting, None) or _cut(lines[-1], layout.width - 1)


def _cut(line: str, width: int) -> str:
    end = "..."
    while cells(line) + len(end) > width:
        line = line[:-1]
    return f"{line}{end}"
