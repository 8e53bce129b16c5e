"""Find where a sequence of releases changes, by testing as few of them as possible. Pure."""

from __future__ import annotations

from collections.abc import Callable


def find_boundary(count: int, changed: Callable[[int], bool | None]) -> tuple[int, int]:
    """Bisect `count` positions; the last one is known to differ from the first one.

    `changed` returns whether a position differs from the first one, or None if it cannot be tested;
    then the positions next to it are tested, the nearest first. Each position is tested at most
    once: with n positions between the ends, at most log2(n) + 1 tests if all can be tested.

    Returns the last position that is like the first one, and the first that is not. Positions
    between them could not be tested: one of them may be the first to change.
    """
    low, high = 0, count - 1
    untested: set[int] = set()
    while candidates := [index for index in range(low + 1, high) if index not in untested]:
        middle = (low + high) / 2
        index = min(candidates, key=lambda one: (abs(one - middle), one))
        verdict = changed(index)
        if verdict is None:
            untested.add(index)
        elif verdict:
            high = index
        else:
            low = index
    return low, high
