"""Rank what fits: by scores of networks that have learned, else by cost alone. Pure."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from peft_regress.project.budgets import Quantity

COST_UNITS: Final[dict[str, Quantity]] = {
    "memory": "byte", "update": "flop", "ship": "byte", "storage": "byte",
}  # fmt: skip
# Of Student's distribution, 97.5 %, for 1 to 9 degrees of freedom. Beyond, the last one makes an
# interval at most a seventh too wide.
_T: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Costs(NamedTuple):
    """What a candidate takes. Sorts by what a tie is decided by: FLOPs first."""

    update: int
    """FLOPs of forward pass, backward pass and optimizer in one step."""
    memory: int
    """Bytes of the tensors at the fullest moment of the first two steps; of a program of
    ExecuTorch, its plan and the optimizer's state."""
    ship: int
    """Bytes to send to a device that has the source model."""
    storage: int
    """Bytes of all weights and buffers; of a program, of its file."""


class Difference(NamedTuple):
    """A mean difference of scores over the same seeds, with half of its 95 % interval."""

    mean: float
    half: float

    def is_within(self, margin: float) -> bool:
        """Whether the whole interval is within a margin on both sides of 0."""
        return abs(self.mean) + self.half <= margin

    @property
    def is_below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.mean + self.half < 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method at a rank, with what it costs and how well it did."""

    method: str
    rank: int | None
    costs: Costs
    room: int = 0
    """The bytes for tensors that it needs: `costs.memory`, or more where operators copy much."""
    plain_memory: int | None = None
    """What `costs.memory` is without `peft_regress.lean`; None where all is without it."""
    largest_batch: int | None = None
    """The largest with which it stays within the limits; 0 if none, None if it is not known."""
    lacks: Mapping[str, int] = field(default_factory=dict)
    """By how much it is over each limit that it does not keep, by the name of a cost."""
    is_near_limit: bool = False
    """Whether it takes more than nine tenths of the memory that there is."""
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


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The candidates that fit, ordered by what the evidence can tell apart."""

    candidates: Sequence[Candidate]
    margin: float = 0.0
    """Within which two scores are equal."""

    @functools.cached_property
    def best(self) -> Candidate | None:
        """The best mean score of those that fit and have one."""
        known = (one for one in self.candidates if one.scores and not one.lacks)
        return max(known, key=lambda one: one.score, default=None)

    def standing(self, one: Candidate) -> str:
        """Return how a candidate compares with the best one; empty without scores."""
        if self.best is None or not one.scores:
            return ""
        if one is self.best:
            return "best"
        behind = difference(one.scores, self.best.scores)
        if behind.is_within(self.margin):
            return "equal"
        return "below" if behind.is_below else "cannot tell"

    def is_equal(self, one: Candidate) -> bool:
        """Return whether a candidate is the best one, or as good within the margin."""
        return self.standing(one) in {"best", "equal"}

    def is_unclear(self, one: Candidate) -> bool:
        """Return whether more seeds could make a candidate equal to the best one."""
        return self.standing(one) == "cannot tell"

    @property
    def order(self) -> list[Candidate]:
        """What fits, the recommended first.

        Those that equal the best, by their price; then the others by their scores, and last by
        their price those that have none.
        """

        def place(one: Candidate) -> tuple[Any, ...]:
            if one.scores and not self.is_equal(one):
                return 1, -one.score
            # Between equals room in memory decides, then FLOPs.
            return 2 * (not one.scores), one.is_near_limit, one.costs

        return sorted((one for one in self.candidates if not one.lacks), key=place)
