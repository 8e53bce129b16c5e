"""Whether a fact holds, and where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_NAMES: Final = 4


class Fact(NamedTuple):
    """True, false, or None if it does not apply."""

    holds: bool | None
    note: str = ""
    """Where it is false, or why it does not apply."""

    @classmethod
    def false(cls, note: str) -> Fact:
        """Return that it does not hold."""
        return cls(holds=False, note=note)

    @classmethod
    def null(cls, note: str) -> Fact:
        """Return that it does not apply."""
        return cls(holds=None, note=note)

    @classmethod
    def unless(cls, wrong: Sequence[str]) -> Fact:
        """Return whether nothing is wrong, naming what is."""
        return cls(holds=not wrong, note=listed(wrong) if wrong else "")


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beyond them."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
