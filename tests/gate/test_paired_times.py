"""Paired times: the estimate, its interval, and the verdict."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test
from strategies import fuzz

from peft_regress.errors import InputError
from peft_regress.gate.paired_times import (
    CaseTimes,
    Estimate,
    TimingRun,
    confidence_of_each,
    estimate_ratio,
    fewest_launches,
    judge_ratio,
)
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.upgrades.timing import LAUNCH_PAIRS

CONFIDENCE = 0.95
PASSING = {"same", "faster"}

seconds = st.floats(1e-6, 1e3)
some_launches = st.lists(
    st.lists(st.tuples(seconds, seconds), min_size=1, max_size=3), min_size=1, max_size=20
)
worsened = st.lists(
    st.lists(st.tuples(seconds, st.floats(0.5, 2.0), st.floats(1.0, 2.0)), min_size=1, max_size=3),
    min_size=1,
    max_size=20,
)


def estimated(launches):
    return estimate_ratio(launches, confidence=CONFIDENCE)


def noisy_launches(ratio, *, noise, seed, offset=0.0, launches=15, each=4):
    """Return pairs with a heavy tail, with drift that both sides share, and an offset a launch."""
    draw = random.Random(seed)
    found = []
    for number in range(launches):
        drift, shared = 1 + number / launches, draw.lognormvariate(0, offset)
        found.append([])
        for _ in range(each):
            base, candidate = (
                drift * draw.lognormvariate(0, noise) * (2 if draw.random() < 0.05 else 1)
                for _ in range(2)
            )
            found[-1].append((base, ratio * shared * candidate))
    return found


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999, 1 - 0.05 / 96])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 11, 12, 30, 31, 90, 200])
def test_the_interval_is_that_of_scipy(count, confidence):
    pairs = noisy_launches(1.02, noise=0.05, seed=count, launches=count, each=1)
    logs = [math.log(b / a) for ((a, b),) in pairs]
    known = quantile_test(logs, q=0, p=0.5).confidence_interval(confidence)
    found = estimate_ratio(pairs, confidence=confidence)
    if math.isnan(known.low):
        assert (found.low, found.high) == (0.0, math.inf)
    else:
        assert (found.low, found.high) == pytest.approx((math.exp(known.low), math.exp(known.high)))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999, 1 - 0.05 / 96])
def test_the_fewest_launches_are_those_that_have_an_interval(confidence):
    enough = fewest_launches(confidence)
    pairs = [[(1.0, 1 + number / 100)] for number in range(enough)]
    assert math.isfinite(estimate_ratio(pairs, confidence=confidence).high)
    assert math.isinf(estimate_ratio(pairs[1:], confidence=confidence).high)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_not_positive_and_finite_is_refused_and_so_is_none(bad):
    for launches in ([[(1.0, 1.0), (1.0, bad)]], [[(1.0, 1.0)], [(bad, 1.0)]]):
        with pytest.raises(InputError, match="a time is positive and finite"):
            estimate_ratio(launches, confidence=CONFIDENCE)
    with pytest.raises(InputError, match="no pair"):
        estimate_ratio([], confidence=CONFIDENCE)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.04, 1.06, "slower"),
        (1.04, 2.00, "slower"),
        (1.02, 1.06, "same"),
        (0.99, 1.01, "same"),
        (0.80, 1.09, "same"),
        (0.90, 0.96, "faster"),
        (0.90, 0.99, "same"),
        (1.02, 1.11, "undetermined"),
        (0.80, 1.20, "undetermined"),
        (0.00, math.inf, "undetermined"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, verdict):
    known = Estimate(ratio=1.0, low=low, high=high, confidence=CONFIDENCE, pairs=30)
    assert judge_ratio(known) == verdict


@given(some_launches, st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_a_slower_candidate_has_a_ratio_larger_by_its_factor_in_any_unit(launches, unit, factor):
    found = estimated(launches)
    slowed = estimated([[(a * unit, b * unit * factor) for a, b in pairs] for pairs in launches])
    assert slowed.ratio == pytest.approx(factor * found.ratio)
    assert slowed.low == pytest.approx(factor * found.low)
    assert slowed.high == pytest.approx(factor * found.high)


@fuzz(worsened, examples=600)
def test_worse_never_passes_if_better_fails(drawn):
    """However the times get worse: all, or any of them, and by how much."""
    better = estimated([[(a, a * r) for a, r, _ in pairs] for pairs in drawn])
    worse = estimated([[(a, a * r * w) for a, r, w in pairs] for pairs in drawn])
    if judge_ratio(worse) in PASSING:
        assert judge_ratio(better) in PASSING
    if judge_ratio(better) == "slower":
        assert judge_ratio(worse) == "slower"


@pytest.mark.parametrize(
    "offset", [0.0, *(pytest.param(one, marks=pytest.mark.nightly) for one in (0.01, 0.03)), 0.1]
)
def test_intervals_hold_as_often_as_they_say_also_if_launches_have_offsets(offset):
    runs = [noisy_launches(1.02, noise=0.02, offset=offset, seed=seed) for seed in range(1000)]
    held = sum(one.low <= 1.02 <= one.high for one in map(estimated, runs))
    assert held / len(runs) >= CONFIDENCE


def test_all_intervals_together_miss_as_rarely_as_one_would_with_the_default_pairs():
    assert confidence_of_each(1) == pytest.approx(1 - DEFAULT_POLICY.time_error_rate)
    assert 96 * (1 - confidence_of_each(96)) == pytest.approx(DEFAULT_POLICY.time_error_rate)
    assert LAUNCH_PAIRS * fewest_launches(confidence_of_each(240)) <= DEFAULT_POLICY.time_pairs


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["same", "faster"], 0),
        (["same", "slower", "failed"], 1),
        (["same", "undetermined"], 3),
        (["same", "incomparable"], 3),
        (["same", "failed"], 3),
        ([], 3),
    ],
)
def test_the_exit_code_is_that_of_the_gravest(verdicts, code):
    cases = tuple(CaseTimes(id=str(n), verdict=verdict) for n, verdict in enumerate(verdicts))
    assert TimingRun(base="a", candidate="b", cases=cases).exit_code == code
