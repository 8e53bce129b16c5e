"""Trainings in float64, which no processor and no release rounds otherwise, compared. Pure.

Where the bound on a step has grown too large to tell a change, a referee judges no further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Final, NamedTuple

from msgspec import UnsetType

from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.runs.schema import Referee

_WORDS: Final = {"losses": "loss", "gradients": "gradient norm", "updates": "update norm"}
"""The lists of a referee, in the order in which a step computes what they hold."""


class Departure(NamedTuple):
    """The first number of a referee that is not the known one."""

    step: int
    """From 1; 0 is the evaluation."""
    what: str
    """`loss`, `gradient norm` or `update norm`; in the evaluation the name of a score."""
    old: float
    new: float
    relative: float


def referee_of(kept: Referee | str | UnsetType) -> Referee | None:
    """Return what a record keeps of a training in float64; None if there is none."""
    return kept if isinstance(kept, Referee) else None


def changes(old: Referee, new: Referee) -> list[float]:
    """Return by step the largest relative difference so far; last, with that of the scores."""
    steps = (max(one.relative for one in step) for step in _steps(old, new))
    scores = (one.relative for one in _scores(old.scores, new.scores, old.losses))
    return list(accumulate([*steps, max(scores, default=0.0)], max))


def departure(known: Referee, new: Referee) -> Departure | None:
    """Return the first number that differs by more than rounding, as far as they are judged."""
    bounds = _bounds(known)
    pairs = [*_steps(known, new), _scores(known.scores, new.scores, known.losses)]
    for bound, pair in zip(bounds, pairs, strict=False):
        for one in pair:
            if not one.relative <= bound:
                return one
    return None


def judged_steps(known: Referee) -> int:
    """Return how many steps rounding leaves to judge."""
    return min(len(_bounds(known)), len(known.losses))


def agree(known: Referee | None, new: Referee | None) -> bool:
    """Return whether both are the same training, from the first step to the scores."""
    if known is None or new is None:
        return False
    is_whole = len(_bounds(known)) > len(known.losses) == len(new.losses)
    return is_whole and departure(known, new) is None


def _bounds(known: Referee) -> list[float]:
    """Return the bound on each step, and on the scores, that is small enough to judge by."""
    policy = DEFAULT_POLICY
    bounds = (max(policy.referee_bound, policy.referee_factor * one) for one in known.moved)
    return list(takewhile(lambda bound: bound <= policy.referee_useful, bounds))


def _steps(old: Referee, new: Referee) -> Iterator[Sequence[Departure]]:
    """Yield for each step what differs in it, and how far."""
    lists = [
        list(_differences(getattr(old, name), getattr(new, name), what))
        for name, what in _WORDS.items()
    ]
    return zip(*lists, strict=True)


def _differences(old: Sequence[float], new: Sequence[float], what: str) -> Iterator[Departure]:
    sizes = accumulate(map(abs, old), max)
    for step, (a, b, largest) in enumerate(zip(old, new, sizes, strict=False), 1):
        yield Departure(step, what, a, b, _relative(a, b, largest))


def _scores(
    old: Mapping[str, float], new: Mapping[str, float], losses: Iterable[float]
) -> list[Departure]:
    largest = max(map(abs, losses))
    return [
        Departure(0, name, was, new[name], _relative(was, new[name], largest))
        for name, was in old.items()
        if name in new
    ]


def _relative(a: float, b: float, largest: float) -> float:
    """Return a difference as a share of a number, or of a thousandth of the largest before it."""
    size = max(abs(a), DEFAULT_POLICY.loss_floor * largest)
    return abs(b - a) / size if size else abs(b - a)
