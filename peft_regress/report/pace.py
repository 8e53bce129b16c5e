"""Estimate how long the rest of some work takes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_MINUTE: Final = 60
_HOUR: Final = 3600
_ROUND_SECONDS: Final = 5


def seconds_left(
    left: Mapping[str, float],
    done: Mapping[str, float],
    before: Mapping[str, float],
    *,
    workers: int,
) -> float | None:
    """Return the seconds that the remaining cases may take; None without evidence.

    `left` are the remaining cases with the seconds that each has run so far; `done` and `before`
    are seconds by case, in this run and in an earlier one. A case is expected to take its earlier
    time, scaled to the speed of this run, else the mean of its architecture, else of all cases.
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
    # With any number of workers, the longest case must end.
    return max([sum(waits) / max(workers, 1), *waits])


class Pace:
    """The time left while cases end one by one."""

    def __init__(self) -> None:
        self.first = 0.0

    def left(self, done: int, count: int, now: float) -> str:
        """Return ', about 4 min left'; '' after the first case and the last."""
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
    """Return a time as people give it: 'about 40 s', 'about 12 min', 'about 1 h 10 min'."""
    if seconds < _MINUTE - _ROUND_SECONDS / 2:
        return f"about {max(_ROUND_SECONDS * round(seconds / _ROUND_SECONDS), _ROUND_SECONDS)} s"
    hours, minutes = divmod(round(seconds / _MINUTE), _HOUR // _MINUTE)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"
