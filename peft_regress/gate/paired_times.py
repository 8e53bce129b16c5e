"""Judge times that were measured in pairs: base and candidate take turns. Pure.

What slows the machine slows both sides of a pair, so the ratio counts. Pairs of one launch share
the speed of its two processes, so a launch counts once, with the median of its pairs. The estimate
is the median over the launches, with the interval of the sign test: exact for any distribution of
the noise, which is far from normal on a shared machine.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from peft_regress.errors import InputError
from peft_regress.gate.policy import DEFAULT_POLICY

TimeVerdict = Literal["slower", "faster", "same", "undetermined", "incomparable", "failed"]
TimePair = tuple[float, float]
"""Seconds of one step of base and candidate, measured directly after each other."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The ratio of the candidate's step time to the base's: 1.1 is 10 % slower."""

    ratio: float
    low: float
    """The lower end of the interval that has this confidence; 0 if it is unbounded."""
    high: float
    """The upper end; infinity if it is unbounded."""
    confidence: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class CaseTimes:
    """The result of one case."""

    id: str
    verdict: TimeVerdict
    pairs: tuple[TimePair, ...] = ()
    estimate: Estimate | None = None
    problem: str = ""
    """Why there is no estimate."""

    @property
    def step_seconds(self) -> TimePair | None:
        """The medians over the pairs of base and candidate; None without pairs."""
        if not self.pairs:
            return None
        base, candidate = zip(*self.pairs, strict=True)
        return statistics.median(base), statistics.median(candidate)


@dataclass(frozen=True, kw_only=True)
class TimingRun:
    """All that was timed, and in which environments."""

    base: str
    """The interpreter as the user named it."""
    candidate: str
    """The same of the candidate."""
    cases: tuple[CaseTimes, ...]
    base_packages: Mapping[str, str] = field(default_factory=dict)
    candidate_packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[TimeVerdict, int]:
        """The number of cases with each verdict."""
        return dict(Counter(case.verdict for case in self.cases))

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a case is slower; else 3 if one is undecided, or there is none; else 0."""
        verdicts = self.counts.keys()
        if "slower" in verdicts:
            return 1
        return 0 if verdicts and verdicts <= {"faster", "same"} else 3


def confidence_of_each(cases: int) -> float:
    """Return the confidence of each case's interval, so that all hold together (Bonferroni).

    The chance that any interval misses its true ratio is at most the policy's rate.
    """
    return 1 - DEFAULT_POLICY.time_error_rate / cases


def fewest_launches(confidence: float) -> int:
    """Return the smallest number of launches for which an interval has this confidence.

    The widest interval goes from the smallest to the largest ratio, and misses the median if all n
    lie on one side of it: with probability 2 / 2**n.
    """
    return math.ceil(1 - math.log2(1 - confidence))


def estimate_ratio(launches: Sequence[Sequence[TimePair]], *, confidence: float) -> Estimate:
    """Return the median ratio of candidate to base with its confidence interval.

    launches: the pairs of each start of the two processes.

    Raises `InputError` for a time that is not positive and finite, and if there is no launch.
    """
    if not launches:
        raise InputError("no pair of times was measured")
    pairs = [pair for launch in launches for pair in launch]
    for seconds in (seconds for pair in pairs for seconds in pair):
        if not 0 < seconds < math.inf:
            raise InputError(f"a step took {seconds} seconds; a time is positive and finite")
    # With logarithms, swapping base and candidate only inverts the ratio.
    logs = sorted(
        statistics.median(math.log(candidate) - math.log(base) for base, candidate in launch)
        for launch in launches
    )
    rank = _rank_of_bound(len(logs), confidence=confidence)
    return Estimate(
        ratio=math.exp(statistics.median(logs)),
        low=math.exp(logs[rank - 1]) if rank else 0.0,
        high=math.exp(logs[-rank]) if rank else math.inf,
        confidence=confidence,
        pairs=len(pairs),
    )


def _rank_of_bound(count: int, *, confidence: float) -> int:
    """Return the rank of the ratio that bounds the median from below, 1 the smallest; 0 for none.

    The ratio of this rank from above is the other bound. The true median lies below the ratio of
    rank k if fewer than k ratios are below it: as often as `count` fair coins show fewer than k
    heads. Both tails together have at most 1 - confidence.
    """
    all_outcomes = Fraction(2**count)  # exact: a float ends at 1023 coins
    tail = 0
    for heads in range(count):
        tail += math.comb(count, heads)
        if 2 * tail > (1 - Fraction(confidence)) * all_outcomes:
            return heads
    return 0


def judge_ratio(estimate: Estimate) -> TimeVerdict:
    """Return the verdict on an estimate.

    `same` is more than no proof that the candidate is slower: the interval must exclude a step that
    is slower by the policy's effect.
    """
    least = 1 + DEFAULT_POLICY.time_margin
    if estimate.low > least:
        return "slower"
    if estimate.high < 1 / least:
        return "faster"
    return "same" if estimate.high < 1 + DEFAULT_POLICY.time_effect else "undetermined"
