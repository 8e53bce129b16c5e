"""Progress while a run measures: how far it is, how long it may take, which case runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from peft_regress.report.layout import cells
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.report.layout import Look

__all__ = ["Pace", "Progress", "seconds_left", "time_left"]

_MINUTE: Final = 60
_HOUR: Final = 3600
_ROUND_SECONDS: Final = 5


@dataclass
class Progress:
    """Where a run is, told by what starts and ends; times are seconds of any one clock.

    cases: case ids by the name of their test. before: seconds that a case took the last time.
    running: when each test started. done: seconds of each case that came to its end.
    """

    cases: dict[str, str] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1
    running: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def start(self, test: str, now: float) -> None:
        """Note that a test starts; one that is no case's is none of ours."""
        if test in self.cases:
            self.running[test] = now

    def spend(self, test: str, seconds: float) -> None:
        """Add the time of one phase of a test."""
        self._seconds[test] = self._seconds.get(test, 0.0) + seconds

    def finish(self, test: str) -> None:
        """Note that a test came to its end."""
        if test in self.cases:
            self.running.pop(test, None)
            self.done[self.cases[test]] = self._seconds.get(test, 0.0)

    @property
    def left(self) -> int:
        """Return how many cases have not come to their end."""
        return len(self.cases) - len(self.done)

    def line(self, now: float, look: Look) -> str:
        """Return one line that fits: counts first, since what is cut is the end of an id."""
        done, count = len(self.done), len(self.cases)
        waiting = {case: 0.0 for case in self.cases.values() if case not in self.done}
        spent = {self.cases[test]: now - start for test, start in self.running.items()}
        seconds = seconds_left({**waiting, **spent}, self.done, self.before, workers=self.workers)
        time = [] if seconds is None else [time_left(seconds)]
        first = clean(next(iter(spent), ""))
        which = f"{len(spent)} now: {first}, ..." if len(spent) > 1 else f"now {first}"
        long = ", ".join([f"{done} of {count} cases done", f"{self.left} left", *time])
        brief = ", ".join([f"{done}/{count}", *time])
        lines = [look.shown(f"{text}; {which}" if spent else text) for text in (long, brief)]
        fitting = (line for line in lines if cells(line) < look.width)
        return next(fitting, None) or _cut(lines[-1], look.width - 1)


def seconds_left(
    left: Mapping[str, float],
    done: Mapping[str, float],
    before: Mapping[str, float],
    *,
    workers: int,
) -> float | None:
    """Return how long cases that are left may take; None where nothing says so.

    left: seconds that each has run already. A case takes what it took before, scaled by how this
    run compares with that so far; else the mean of its architecture; else that of all cases.
    """
    known = [case for case in done if case in before]
    then = sum(before[case] for case in known)
    scale = sum(done[case] for case in known) / then if then else 1.0
    expected = {**{case: seconds * scale for case, seconds in before.items()}, **done}
    waits = []
    for case, spent in left.items():
        seconds = _expected(case, expected)
        if seconds is None:
            return None
        waits.append(max(seconds - spent, 0.0))
    # However many workers there are, none goes home before the longest case has ended.
    return max([sum(waits) / max(workers, 1), *waits])


class Pace:
    """How long the rest takes of cases that come to their end one by one."""

    def __init__(self) -> None:
        self.first = 0.0

    def left(self, done: int, count: int, now: float) -> str:
        """Return ', about 4 min left'; nothing of the first, which tells no time, and the last."""
        if done <= 1:
            self.first = now
        if done <= 1 or done >= count:
            return ""
        return f", {time_left((now - self.first) / (done - 1) * (count - done))} left"


def _expected(case: str, seconds: Mapping[str, float]) -> float | None:
    if case in seconds:
        return seconds[case]
    architecture = case.rpartition("/")[2]
    alike = [spent for name, spent in seconds.items() if name.rpartition("/")[2] == architecture]
    found = alike or list(seconds.values())
    return sum(found) / len(found) if found else None


def time_left(seconds: float) -> str:
    """Return a time as people say it: 'about 40 s', 'about 12 min', 'about 1 h 10 min'."""
    if seconds < _MINUTE - _ROUND_SECONDS / 2:
        return f"about {max(_ROUND_SECONDS * round(seconds / _ROUND_SECONDS), _ROUND_SECONDS)} s"
    hours, minutes = divmod(round(seconds / _MINUTE), _HOUR // _MINUTE)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


def _cut(line: str, width: int) -> str:
    end = "..."
    while cells(line) + len(end) > width:
        line = line[:-1]
    return f"{line}{end}"
