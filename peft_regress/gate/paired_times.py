"""Judge times that were measured in pairs, base and candidate taking turns. Pure.

What slows the machine slows both sides of a pair, so that the ratio of the two is what counts. The
estimate is the median of the ratios, its interval that of the sign test: exact whatever the
distribution of the noise, which on a shared machine is anything but normal.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peft_regress.errors import InputError
from peft_regress.gate.policy import DEFAULT_POLICY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft_regress.gate.policy import Policy

__all__ = [
    "CaseTimes",
    "Estimate",
    "Interval",
    "TimeVerdict",
    "TimingRun",
    "confidence_of_each",
    "estimate_ratio",
    "fewest_pairs",
    "judge_ratio",
]

TimeVerdict = Literal["slower", "faster", "same", "undetermined", "incomparable", "failed"]
TimePair = tuple[float, float]
"""Seconds of a step of base and of candidate, measured one right after the other."""

_INCOMPLETE: frozenset[TimeVerdict] = frozenset({"undetermined", "incomparable", "failed"})


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Both ends of a confidence interval of a ratio; 0 and infinity where nothing bounds it."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """By how much the candidate's step is as long as the base's: 1.1 is 10 % slower."""

    ratio: float
    interval: Interval
    confidence: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class CaseTimes:
    """What the pairs of one case came to; without an estimate, `problem` says why."""

    id: str
    verdict: TimeVerdict
    pairs: tuple[TimePair, ...] = ()
    estimate: Estimate | None = None
    problem: str = ""

    @property
    def step_seconds(self) -> TimePair | None:
        """The median over the pairs, of base and of candidate; None where there are none."""
        if not self.pairs:
            return None
        base, candidate = zip(*self.pairs, strict=True)
        return statistics.median(base), statistics.median(candidate)


@dataclass(frozen=True, kw_only=True)
class TimingRun:
    """All that was timed, and where: the interpreters as they were named, and their packages."""

    base: str
    candidate: str
    cases: tuple[CaseTimes, ...]
    base_packages: Mapping[str, str] = field(default_factory=dict)
    candidate_packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[TimeVerdict, int]:
        """How many cases have each verdict."""
        return dict(Counter(case.verdict for case in self.cases))

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 where a case is slower; else 3 where one is not known, or there is none; else 0."""
        verdicts = self.counts.keys()
        if "slower" in verdicts:
            return 1
        return 3 if _INCOMPLETE & verdicts or not verdicts else 0


def confidence_of_each(cases: int, *, policy: Policy = DEFAULT_POLICY) -> float:
    """Return the confidence of each case's interval, so that all hold at once (Bonferroni).

    However many cases are timed, the chance that any interval misses its true ratio is no more
    than the policy's rate.
    """
    return 1 - policy.time_error_rate / cases


def fewest_pairs(confidence: float) -> int:
    """Return the number of pairs below which no interval has this confidence.

    The widest goes from the smallest to the largest ratio, and misses the median where all of n
    lie on one side of it: 2 in 2**n.
    """
    return math.ceil(1 - math.log2(1 - confidence))


def estimate_ratio(pairs: Sequence[TimePair], *, confidence: float) -> Estimate:
    """Return the median ratio of candidate to base with its confidence interval.

    Raises `InputError` for a time that is not positive and finite, and where there is no pair.
    """
    # Found by scipy: which of the sorted ratios bound the median follows from the binomial.
    from scipy.stats import quantile_test

    if not pairs:
        msg = "no pair of times was measured"
        raise InputError(msg)
    for seconds in (seconds for pair in pairs for seconds in pair):
        if not 0 < seconds < math.inf:
            msg = f"a step took {seconds} seconds, which is no time"
            raise InputError(msg)
    # Of logarithms, so that base and candidate may change places.
    logs = [math.log(candidate) - math.log(base) for base, candidate in pairs]
    found = quantile_test(logs, q=0, p=0.5).confidence_interval(confidence)
    low, high = float(found.low), float(found.high)
    return Estimate(
        ratio=math.exp(statistics.median(logs)),
        interval=Interval(
            low=0.0 if math.isnan(low) else math.exp(low),
            high=math.inf if math.isnan(high) else math.exp(high),
        ),
        confidence=confidence,
        pairs=len(pairs),
    )


def judge_ratio(estimate: Estimate, *, policy: Policy = DEFAULT_POLICY) -> TimeVerdict:
    """Return the verdict on an estimate.

    `same` is not the lack of proof that the candidate is slower: the interval must exclude a step
    that is slower by the effect that is to be found.
    """
    least = 1 + policy.time_margin
    low, high = estimate.interval.low, estimate.interval.high
    if low > least:
        return "slower"
    if high < 1 / least:
        return "faster"
    return "same" if high < 1 + policy.time_effect else "undetermined"
