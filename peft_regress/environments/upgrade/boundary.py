"""Find where a row of releases changes, by trying as few of them as possible. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Boundary", "find_boundary"]


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The last place that is as the first one, and the first that is not.

    `between` are the places in between that could not be tried, so that each of them may be the
    first as well.
    """

    last_same: int
    first_changed: int
    between: tuple[int, ...] = ()


def find_boundary(count: int, changed: Callable[[int], bool | None]) -> Boundary:
    """Bisect `count` places, of which the first is known not to have changed and the last to have.

    `changed` says whether a place differs from the first one; None where it cannot be tried, and
    then its neighbours are tried, the nearest first. Each place is tried once at most: with n
    places between the ends, log2(n) + 1 tries or less where every one can be tried.
    """
    low, high = 0, count - 1
    untried: set[int] = set()
    while candidates := [place for place in range(low + 1, high) if place not in untried]:
        middle = (low + high) / 2
        place = min(candidates, key=lambda one: (abs(one - middle), one))
        verdict = changed(place)
        if verdict is None:
            untried.add(place)
        elif verdict:
            high = place
        else:
            low = place
    return Boundary(last_same=low, first_changed=high, between=tuple(range(low + 1, high)))
