"""Trainings in float64, which no processor and no release rounds otherwise, compared. Pure.

Where the bound on a step has grown too large to tell a change, a referee judges no further.
"""

from collections.abc import Iterator, Sequence
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
    return list(
        accumulate(
            (max((one.relative for one in part), default=0.0) for part in _parts(old, new)), max
        )
    )


def departure(known: Referee, new: Referee) -> Departure | None:
    """Return the first number that differs by more than rounding, as far as they are judged."""
    for bound, part in zip(_bounds(known), _parts(known, new), strict=False):
        for one in part:
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
    """Return the bound on each step, and on the scores, that is small enough to judge by.

    By what moves up to the next step: elsewhere rounding may amplify a step earlier.
    """
    policy, moved = DEFAULT_POLICY, [*known.moved[1:], *known.moved[-1:]]
    bounds = (max(policy.referee_bound, policy.referee_factor * one) for one in moved)
    return list(takewhile(lambda bound: bound <= policy.referee_useful, bounds))


def _parts(old: Referee, new: Referee) -> Iterator[list[Departure]]:
    """Yield for each step, and last for the scores, what differs and how far."""
    lists = [(getattr(old, name), getattr(new, name), what) for name, what in _WORDS.items()]
    for step in range(len(old.losses)):
        pairs = ((was, now, what) for was, now, what in lists if step < min(len(was), len(now)))
        yield [
            Departure(step + 1, what, was[step], now[step], _relative(was[: step + 1], now[step]))
            for was, now, what in pairs
        ]
    yield [
        Departure(0, name, was, new.scores[name], _relative([*old.losses, was], new.scores[name]))
        for name, was in old.scores.items()
        if name in new.scores
    ]


def _relative(old: Sequence[float], new: float) -> float:
    """Return how far one is from the last number: a share of it, or of 0.1 % of the largest."""
    size = max(abs(old[-1]), DEFAULT_POLICY.loss_floor * max(map(abs, old)))
    return abs(new - old[-1]) / size if size else abs(new - old[-1])
