"""What a search found, and how many examples it tried."""

from __future__ import annotations

import msgspec

from peft_fuzz.example import Example, Failure
from peft_fuzz.networks.network import Value
from peft_fuzz.search.causes import Cause


class Counts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many lives ended how, by method.

    Attributes:
        known: Failures of known causes.
        unsteady: Failing examples that did not fail again.
        unjudged: Examples that the oracles cannot judge: a defect of this project.
    """

    lives: dict[str, int] = {}
    refused: dict[str, int] = {}
    absent: dict[str, int] = {}
    known: dict[str, int] = {}
    unsteady: dict[str, int] = {}
    unjudged: dict[str, int] = {}

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        sums = {}
        for name in self.__struct_fields__:
            one, two = getattr(self, name), getattr(other, name)
            sums[name] = {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}
        return Counts(**sums)


class Found(Value, frozen=True, kw_only=True):
    """An example that fails by a new cause, as small as it could be made in the time."""

    cause: Cause
    example: Example
    failure: Failure


class Sought(Value, frozen=True, kw_only=True):
    """What a search found; `problem` is why an example could not be judged."""

    counts: Counts
    found: Found | None = None
    problem: str = ""
