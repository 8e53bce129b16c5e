"""Rank what fits: by scores over the same seeds where there are any, else by cost alone. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# Of Student's distribution, 97.5 %, for 1 to 9 degrees of freedom. Beyond, the last one makes an
# interval at most a seventh too wide.
_T: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Costs(NamedTuple):
    """What a candidate takes. Sorts by what a tie is decided by: memory first."""

    memory: int
    """Bytes of the tensors at the fullest moment of the first two steps; of a program of
    ExecuTorch, its plan and the optimizer's state."""
    update: int
    """FLOPs of forward pass, backward pass and optimizer in one step."""
    ship: int
    """Bytes to send to a device that has the source model."""
    storage: int
    """Bytes of all weights and buffers; of a program, of its file."""


class Difference(NamedTuple):
    """A mean difference of scores over the same seeds, with half of its 95 % interval."""

    mean: float
    margin: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes 0."""
        return abs(self.mean) <= self.margin


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method at a rank, with what it costs and how well it did."""

    method: str
    rank: int | None
    costs: Costs
    largest_batch: int | None = None
    """The largest with which it stays within the limits; 0 if none, None if it is not known."""
    lacks: Mapping[str, int] = field(default_factory=dict)
    """By how much it is over each limit that it does not keep, by the name of a cost."""
    scores: tuple[float, ...] = ()
    """By seed, higher is better; empty without evidence."""

    @property
    def name(self) -> str:
        """As a case id has it: `lora-r4`."""
        return self.method if self.rank is None else f"{self.method}-r{self.rank}"

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.scores)


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Return `one - other`, paired by seed: of the seeds that both have."""
    pairs = [a - b for a, b in zip(one, other, strict=False)]
    mean, count = statistics.fmean(pairs), len(pairs)
    if count == 1:
        return Difference(mean, math.inf)
    quantile = _T[min(count - 1, len(_T)) - 1]
    return Difference(mean, quantile * statistics.stdev(pairs) / math.sqrt(count))


def is_below(one: Candidate, other: Candidate) -> bool:
    """Return whether a candidate scores below another by more than the noise of the seeds."""
    found = difference(one.scores, other.scores)
    return found.mean < 0 and not found.is_noise


def ties(fitting: Sequence[Candidate]) -> list[Candidate]:
    """Return those that are not below the best by more than noise, the cheapest first.

    Of those with the most seeds: what was dropped after fewer was below the best of then.
    """
    most = max((len(one.scores) for one in fitting), default=0)
    known = [one for one in fitting if one.scores and len(one.scores) == most]
    best = max(known, key=lambda one: one.score, default=None)
    found = [one for one in known if best is not None and not is_below(one, best)]
    return sorted(found, key=lambda one: one.costs)


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that fit, the recommended one first.

    The ties come first, then what is below them by its score, last by cost what has no scores.
    """
    fitting = [one for one in candidates if not one.lacks]
    first = ties(fitting)
    below = [one for one in fitting if one.scores and one not in first]
    unknown = [one for one in fitting if not one.scores]
    return [
        *first,
        *sorted(below, key=lambda one: -one.score),
        *sorted(unknown, key=lambda one: one.costs),
    ]


def of_each_method(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the first candidate of each method, in their order."""
    found: dict[str, Candidate] = {}
    for one in candidates:
        found.setdefault(one.method, one)
    return list(found.values())


def rank_of_no_saving(
    candidates: Sequence[Candidate], full: Candidate, cost: str
) -> dict[str, float]:
    """Return by method the rank at which a cost reaches that of full fine-tuning.

    Between two ranks a line is drawn, which FLOPs follow exactly and memory nearly. 0 for a method
    that saves at no rank; a method that saves at all ranks is left out.
    """
    limit = getattr(full.costs, cost)
    found: dict[str, float] = {}
    for before, one in itertools.pairwise((full, *candidates)):
        was, value = (getattr(side.costs, cost) for side in (before, one))
        if one.rank is None or one.method in found or value < limit:
            continue
        if before.method != one.method or before.rank is None:
            found[one.method] = 0.0
        else:
            share = (limit - was) / (value - was)
            found[one.method] = before.rank + share * (one.rank - before.rank)
    return found
