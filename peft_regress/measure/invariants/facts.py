"""Whether a fact holds, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from peft_regress.runs.schema import Defect, Failure

_MOST_NAMES: Final = 4
_LARGEST: Final = 1e100
"""Stands for a size that is infinite or NaN, which no record holds."""


class Fact(NamedTuple):
    """True, false, or None if it does not apply."""

    holds: bool | None
    note: str = ""
    """Where it is false, or why it does not apply."""
    defect: Defect = Defect()
    """What the gate compares where it is false; if it has no parts, the words of the note."""

    @classmethod
    def false(
        cls,
        note: str,
        *,
        error: Exception | None = None,
        tensors: Sequence[str] = (),
        size: float | None = None,
    ) -> Fact:
        """Return that it does not hold: by what error, for which tensors, and how far it is off."""
        defect = Defect(
            error=None if error is None else Failure.of(error),
            tensors=list(tensors),
            size=size if size is None or size <= _LARGEST else _LARGEST,
        )
        return cls(holds=False, note=note, defect=defect)

    @classmethod
    def null(cls, note: str) -> Fact:
        """Return that it does not apply."""
        return cls(holds=None, note=note)

    @classmethod
    def unless(cls, wrong: Sequence[str]) -> Fact:
        """Return whether nothing is wrong, naming what is."""
        return cls.false(listed(wrong), tensors=wrong) if wrong else cls(holds=True)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are beyond them."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
