"""The messages of a worker that runs examples, besides those of every worker."""

from __future__ import annotations

import msgspec

from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.search.causes import Cause


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of JSON."""


class Begin(_Message, frozen=True, kw_only=True):
    """Import the libraries."""

    methods: tuple[str, ...]


class Begun(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The libraries can be imported."""

    absent: tuple[str, ...]
    """The methods of the request that this release does not have."""
    packages: dict[str, str]
    """The versions of what an outcome depends on."""


class Seek(_Message, frozen=True, kw_only=True):
    """Draw and run examples until one fails by a cause that is not known, or the time is over."""

    methods: tuple[str, ...]
    seed: int
    seconds: float
    shrink_seconds: float
    """How long a failing example may be made smaller, beyond `seconds`."""
    known: tuple[Cause, ...] = ()


class Counts(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many lives ended how, by method."""

    lives: dict[str, int] = {}
    """All of them, those included that were only lived to make an example smaller."""
    refused: dict[str, int] = {}
    absent: dict[str, int] = {}
    known: dict[str, int] = {}
    """Failures of known causes."""
    unsteady: dict[str, int] = {}
    """Failing examples that did not fail again."""
    unjudged: dict[str, int] = {}
    """Examples that the oracles cannot judge: a defect of this project."""

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        sums = {}
        for name in self.__struct_fields__:
            one, two = getattr(self, name), getattr(other, name)
            sums[name] = {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}
        return Counts(**sums)


class Found(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An example that fails by a new cause, as small as it could be made in the time."""

    cause: Cause
    example: Example
    failure: Failure


class Sought(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a search found."""

    counts: Counts
    found: Found | None = None
    problem: str = ""
    """Why an example could not be judged."""


class Live(_Message, frozen=True, kw_only=True):
    """Run one example."""

    example: Example


class Lived(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it ended."""

    outcome: Outcome
