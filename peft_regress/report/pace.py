"""Estimate how long the rest of some work takes. Pure."""

from __future__ import annotations

from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_ROUND_SECONDS: Final = 5


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


def time_left(seconds: float) -> str:
    """Return a time as people give it: 'about 40 s', 'about 12 min', 'about 1 h 10 min'."""
    if seconds < _MINUTE - _ROUND_SECONDS / 2:
        return f"about {max(_ROUND_SECONDS * round(seconds / _ROUND_SECONDS), _ROUND_SECONDS)} s"
    hours, minutes = divmod(round(seconds / _MINUTE), _HOUR // _MINUTE)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"
