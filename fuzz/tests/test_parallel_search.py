"""Searches in several processes: their seeds, and whose turn it is."""

from __future__ import annotations

import itertools

from peft_fuzz.search.parallel_search import seed_of, some_methods


def test_seeds_differ_by_turn_and_job_and_do_not_change() -> None:
    seeds = [seed_of(seed, job, turn) for seed, job, turn in itertools.product(range(3), repeat=3)]
    assert len(set(seeds)) == 27
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


def test_every_method_has_its_turn() -> None:
    methods = [f"m{number}" for number in range(7)]
    seen = [
        name
        for turn in range(7)
        for job in range(2)
        for name in some_methods(methods, seed=0, jobs=2, job=job, turn=turn)
    ]
    assert {seen.count(name) for name in methods} == {6}
