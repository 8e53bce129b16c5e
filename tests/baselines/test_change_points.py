"""Change points: false alarms and power as the module claims them, and what is refused."""

from __future__ import annotations

import random

import pytest

from peft_regress.baselines.lines import FEWEST_POINTS, find_change_points

NOISE = 0.01


def noisy(seed: int, *levels: tuple[int, float], noise: float = NOISE) -> list[float]:
    """Return a series of (so many points, at this level), with noise that is drawn from a seed."""
    chance = random.Random(seed)
    return [level + chance.gauss(0, noise) for count, level in levels for _ in range(count)]


@pytest.mark.parametrize("length", [6, 8, 12, 20, 50, 100])
def test_of_series_without_a_change_less_than_one_in_a_hundred_gets_one(length: int) -> None:
    alarms = sum(
        bool(find_change_points(noisy(seed, (length, 0.7)), noise=NOISE)) for seed in range(2000)
    )
    assert alarms < 20


@pytest.mark.parametrize(("length", "share"), [(6, 0.70), (8, 0.80), (12, 0.92), (20, 0.97)])
def test_a_step_of_four_times_the_noise_is_found(length: int, share: float) -> None:
    half = length // 2
    found = sum(
        any(
            abs(position - half) <= 1
            for position in find_change_points(noisy(seed, (half, 0.7), (half, 0.74)), noise=NOISE)
        )
        for seed in range(500)
    )
    assert found >= share * 500


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (noisy(1, (7, 0.7), (9, 0.6), (8, 0.8)), [7, 16]),
        ([0.7] * 5 + [0.75] + [0.7] * 6, []),
        (noisy(3, (40, 0.7), noise=20 * NOISE), []),
        ([0.7] * 10 + [0.701] * 10, []),
        ([0.7] * 10 + [0.76] * 10, [10]),
    ],
    ids=["steps", "outlier", "noise of the series", "repeats to the bit", "beyond the noise"],
)
def test_a_level_begins_where_it_does_and_nowhere_else(
    values: list[float], found: list[int]
) -> None:
    assert find_change_points(values, noise=NOISE) == found


def test_too_few_values_are_refused() -> None:
    for count in range(FEWEST_POINTS):
        with pytest.raises(ValueError, match=f"{count} values"):
            find_change_points([0.1 * number for number in range(count)], noise=NOISE)
