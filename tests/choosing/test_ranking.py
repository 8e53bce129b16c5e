"""Ranking of candidates: what has learned, what is equal, what comes first."""

import math
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_training import fine_tune as own_training

from peft_regress.catalogue.evidence import Study, Trained, margin_of, why_not_learned
from peft_regress.choosing.ranking import Candidate, Costs, Ranking, difference
from peft_regress.choosing.study import as_code
from peft_regress.project.budgets import Budget


def candidate(name, update, scores=(), *, memory=0, lacks=(), is_near_limit=False):
    method, _, rank = name.partition("-r")
    return Candidate(
        method=method,
        rank=int(rank) if rank else None,
        costs=Costs(update=update, memory=memory, ship=0, storage=0),
        scores=tuple(scores),
        lacks=dict(lacks),
        is_near_limit=is_near_limit,
    )


def names(found):
    return [one.name for one in found]


def test_a_difference_is_paired_so_noise_that_seeds_share_cancels():
    one, other = [0.10, 0.50, 0.90, 0.30], [0.12, 0.53, 0.91, 0.32]
    found = difference(one, other)
    assert found.mean == pytest.approx(-0.02)
    pairs = [a - b for a, b in zip(one, other, strict=True)]
    assert found.half == pytest.approx(3.182 * statistics.stdev(pairs) / 2)
    assert found.is_below


def test_an_interval_misses_the_truth_in_a_twentieth_of_all_draws():
    import random

    draws = random.Random(0)
    missed = 0
    for _ in range(2000):
        zeros = [draws.gauss(0, 1) for _ in range(10)]
        found = difference(zeros, [0.0] * 10)
        missed += abs(found.mean) > found.half
    assert 0.035 < missed / 2000 < 0.065


def test_one_seed_tells_nothing():
    found = difference([0.1], [0.9])
    assert found.half == math.inf
    assert not found.is_below
    assert not found.is_within(1.0)


BEST = candidate("full", 100, [0.90, 0.91, 0.90, 0.91])


EQUAL = candidate("lora-r4", 40, [0.89, 0.91, 0.90, 0.90], memory=9)
BELOW = candidate("head", 10, [0.50, 0.60, 0.55, 0.52])
NOISY = candidate("lora-r1", 5, [0.70, 0.99, 0.80, 0.95])
LITTLE = candidate("lora-r2", 5, [0.885, 0.895, 0.885, 0.895])
NEAR = candidate("lora-r1", 5, BEST.scores, is_near_limit=True)
FAR = candidate("lora-r4", 50, BEST.scores, memory=9)
UNKNOWN = (candidate("hra-r4", 3), candidate("ia3", 2))
TOO_LARGE = candidate("full", 100, [0.70, 0.80], lacks={"memory": 5})


@pytest.mark.parametrize(
    ("candidates", "margin", "order"),
    [
        # Equals go by FLOPs, and what is below comes after them.
        ((BELOW, BEST, EQUAL), 0.03, ["lora-r4", "full", "head"]),
        # A wide interval makes no equal, and the better mean is first.
        ((BEST, NOISY), 0.03, ["full", "lora-r1"]),
        ((BEST, NOISY), 0.5, ["lora-r1", "full"]),
        # A difference that is sure but small is equal.
        ((BEST, LITTLE), 0.03, ["lora-r2", "full"]),
        ((BEST, LITTLE), 0.01, ["full", "lora-r2"]),
        # Memory decides between equals only near the limit.
        ((NEAR, FAR), 0.03, ["lora-r4", "lora-r1"]),
        # What does not fit is not ranked, and what is not known comes last.
        (
            (TOO_LARGE, *UNKNOWN, candidate("lora-r4", 40, [0.1, 0.2])),
            0.03,
            ["lora-r4", "ia3", "hra-r4"],
        ),
        # Without scores the cheapest is first.
        ((candidate("full", 9), *UNKNOWN, candidate("lora-r1", 1)), 0.03,
         ["lora-r1", "ia3", "hra-r4", "full"]),
    ],
)  # fmt: skip
def test_the_order_is_of_equals_by_cost_then_by_score_then_of_the_unknown(
    candidates, margin, order
):
    assert names(Ranking(candidates=candidates, margin=margin).order) == order


def test_the_interval_of_an_unclear_one_holds_both_0_and_the_margin():
    ranking = Ranking(candidates=[BEST, NOISY], margin=0.03)
    assert (ranking.is_equal(NOISY), ranking.is_unclear(NOISY)) == (False, True)
    assert difference(LITTLE.scores, BEST.scores).is_below


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 9), min_size=3, max_size=3))),
    st.sampled_from([0.5, 3.0, 20.0]),
)
def test_the_first_is_the_cheapest_of_those_that_equal_the_best(items, margin):
    """Against the definition."""
    every = [candidate(f"m{n}", flops, scores) for n, (flops, scores) in enumerate(items)]
    order = Ranking(candidates=every, margin=margin).order
    assert sorted(names(order)) == sorted(names(every))
    if not order:
        return
    best = max(every, key=lambda one: statistics.fmean(one.scores))

    def is_equal(one):
        found = difference(one.scores, best.scores)
        return one is best or abs(found.mean) + found.half <= margin

    assert is_equal(order[0])
    assert order[0].costs.update == min(one.costs.update for one in every if is_equal(one))
    others = [one.score for one in order if not is_equal(one)]
    assert others == sorted(others, reverse=True)


def study(curve, *, chance=0.1, untrained=0.12, full=()):
    methods = {"full": Trained(rate=1, early=full, final=full)} if full else {}
    return Study(
        images="x", batch=4, steps=100, chance=chance, untrained=untrained, curve=curve,
        methods=methods,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("curve", "chance", "problem"),
    [
        ({50: 0.90, 100: 0.905}, 0.1, ""),
        ({50: 0.90, 100: 0.88}, 0.1, ""),
        ({50: 0.70, 100: 0.90}, 0.1, "still learns after 50 steps"),
        ({100: 0.90}, 0.1, "still learns after 50 steps"),
        ({50: 0.12, 100: 0.12}, 0.1, "reaches 12 after 100 steps, where guessing gives 10"),
        ({50: 0.91, 100: 0.91}, 0.9, "where guessing gives 90"),
        ({}, 0.1, "could not be trained in time"),
        ({50: -3.0, 100: -2.99}, None, "where the untrained model has -2"),
        ({50: 9.9, 100: 10.0}, None, ""),
    ],
)
def test_only_networks_that_have_learned_order_methods(curve, chance, problem):
    untrained = 0.12 if chance else -2.0
    found = why_not_learned(study(curve, chance=chance, untrained=untrained))
    assert problem in found
    assert bool(found) is bool(problem)


def test_a_margin_is_in_points_of_accuracy_and_in_percent_of_other_scores():
    assert margin_of(study({1: 0.9}, full=(0.5, 0.7)), 3) == pytest.approx(0.03)
    other = study({1: 0.9}, chance=None, full=(-50.0, -70.0))
    assert margin_of(other, 3) == pytest.approx(1.8)


def test_the_code_to_paste_has_no_limits_of_another_method():
    fine_tune = own_training(
        "lora-r4", id="own/lora-r4/net", budget=Budget(ship="1 kB"), also_train=("8",)
    )
    trained = Trained(rate=3, early=(0.5,), final=(0.9,))
    found = msgspec.structs.replace(study({}), methods={"full": trained, "lora-r4": trained})
    of_another = as_code(fine_tune, found, "full").splitlines()
    assert of_another[:2] == ["FineTune(", '    "own/full/net",']
    assert of_another[-3:] == [
        ")",
        "# without the budget of own/lora-r4/net, a case of another method",
        "# trained at 3 times the learning rate of its optimizer",
    ]
    assert not any("Budget" in line for line in of_another)
    assert any("Budget" in line for line in as_code(fine_tune, found, "lora-r4").splitlines())
