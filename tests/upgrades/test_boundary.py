"""The release at which a sequence changes is always found, with few tests."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.upgrades.boundary import find_boundary


def check(count: int, first_changed: int, untriable: frozenset[int]) -> None:
    """Search a sequence that changes at one index, and check all promises of `find_boundary`."""
    tried: list[int] = []

    def changed(index: int) -> bool | None:
        assert 0 < index < count - 1, "an end is known"
        tried.append(index)
        return None if index in untriable else index >= first_changed

    low, high = find_boundary(count, changed)
    assert low < first_changed <= high
    assert set(range(low + 1, high)) <= untriable
    assert not {low, high} & untriable
    assert len(tried) == len(set(tried))
    met = len(untriable.intersection(tried))
    # The neighbour of a release that cannot be tested is not quite the middle.
    assert len(tried) <= math.ceil(math.log2(count if met else count - 1)) + met


@pytest.mark.parametrize("count", range(2, 11))
def test_every_sequence_of_a_few_releases(count):
    inner = range(1, count - 1)
    for first_changed in range(1, count):
        for size in range(count - 1):
            for untriable in itertools.combinations(inner, size):
                check(count, first_changed, frozenset(untriable))


@given(data=st.data(), count=st.integers(2, 300))
def test_long_sequences(data, count):
    first_changed = data.draw(st.integers(1, count - 1))
    inner = st.integers(1, count - 2) if count > 2 else st.nothing()
    check(count, first_changed, data.draw(st.frozensets(inner)))
