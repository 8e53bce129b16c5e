"""Ranking of candidates: ties by noise, order by cost, where a rank stops saving."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.choosing.ranking import (
    Candidate,
    Costs,
    difference,
    of_each_method,
    rank_of_no_saving,
    ranked,
)


def candidate(name, memory, scores=(), *, update=0, lacks=()):
    method, _, rank = name.partition("-r")
    return Candidate(
        method=method,
        rank=int(rank) if rank else None,
        costs=Costs(memory=memory, update=update, ship=0, storage=0),
        scores=tuple(scores),
        lacks=dict(lacks),
    )


def names(found):
    return [one.name for one in found]


def test_a_difference_is_paired_so_noise_that_seeds_share_cancels():
    one, other = [0.10, 0.50, 0.90, 0.30], [0.12, 0.53, 0.91, 0.32]
    found = difference(one, other)
    assert found.mean == pytest.approx(-0.02)
    pairs = [a - b for a, b in zip(one, other, strict=True)]
    assert found.margin == pytest.approx(3.182 * statistics.stdev(pairs) / 2)
    assert not found.is_noise


def test_an_interval_misses_the_truth_in_a_twentieth_of_all_draws():
    import random

    draws = random.Random(0)
    missed = 0
    for _ in range(2000):
        zeros = [draws.gauss(0, 1) for _ in range(10)]
        missed += not difference(zeros, [0.0] * 10).is_noise
    assert 0.035 < missed / 2000 < 0.065


def test_one_seed_tells_nothing():
    found = difference([0.1], [0.9])
    assert found.margin == math.inf
    assert found.is_noise


def test_a_tie_goes_to_what_takes_less_memory_and_a_real_difference_does_not():
    best = candidate("full", 100, [0.70, 0.80, 0.75, 0.72])
    tie = candidate("lora-r4", 40, [0.72, 0.77, 0.76, 0.70])
    below = candidate("head", 10, [0.50, 0.60, 0.55, 0.52])
    assert names(ranked([best, below, tie])) == ["lora-r4", "full", "head"]


def test_what_does_not_fit_is_not_ranked_and_what_is_not_known_comes_last():
    best = candidate("full", 100, [0.70, 0.80], lacks={"memory": 5})
    known = candidate("lora-r4", 40, [0.1, 0.2])
    unknown = [candidate("hra-r4", 3), candidate("ia3", 2)]
    assert names(ranked([best, *unknown, known])) == ["lora-r4", "ia3", "hra-r4"]


def test_what_was_dropped_after_fewer_seeds_is_no_tie_and_not_the_best():
    dropped = candidate("head", 1, [0.80, 0.81])
    kept = candidate("full", 9, [0.90, 0.91, 0.60, 0.61])
    assert names(ranked([dropped, kept])) == ["full", "head"]


def test_without_scores_the_cheapest_is_first():
    found = ranked([candidate("full", 9), candidate("lora-r1", 5), candidate("lora-r2", 6)])
    assert names(found) == ["lora-r1", "lora-r2", "full"]
    assert names(of_each_method(found)) == ["lora-r1", "full"]


@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 9), min_size=3, max_size=3))))
def test_nothing_ranked_after_a_tie_is_cheaper_and_as_good(items):
    """Against the definition: the first is not below the best, and none such takes less."""
    every = [candidate(f"m{n}", memory, scores) for n, (memory, scores) in enumerate(items)]
    order = ranked(every)
    assert sorted(names(order)) == sorted(names(every))
    if not order:
        return
    best = max(every, key=lambda one: statistics.fmean(one.scores))

    def is_tie(one):
        found = difference(one.scores, best.scores)
        return found.is_noise or found.mean >= 0

    assert is_tie(order[0])
    assert order[0].costs.memory == min(one.costs.memory for one in every if is_tie(one))


def test_where_a_rank_stops_saving_lies_on_the_line_between_two_ranks():
    full = candidate("full", 100, update=1000)
    ranks = [candidate(f"lora-r{rank}", 50 + rank, update=600 + 30 * rank) for rank in (4, 8, 16)]
    dora = [candidate(f"dora-r{rank}", 120 + rank, update=100) for rank in (1, 2)]
    every = [full, *ranks, *dora]
    assert rank_of_no_saving(every, full, "update") == {"lora": pytest.approx(400 / 30)}
    assert rank_of_no_saving(every, full, "memory") == {"dora": 0.0}
