"""Where a row of releases changes: always right, and with few tries."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.environments.upgrade.boundary import Boundary, find_boundary


def check(count: int, first_changed: int, untriable: frozenset[int]) -> None:
    """Search a row that changes at one place, and hold all that is promised."""
    tried: list[int] = []

    def changed(place: int) -> bool | None:
        assert 0 < place < count - 1, "an end is known"
        tried.append(place)
        return None if place in untriable else place >= first_changed

    found = find_boundary(count, changed)
    assert found.last_same < first_changed <= found.first_changed
    assert set(found.between) == set(range(found.last_same + 1, found.first_changed))
    assert set(found.between) <= untriable
    assert not {found.last_same, found.first_changed} & untriable
    assert len(tried) == len(set(tried))
    met = len(untriable.intersection(tried))
    # The neighbour of what cannot be tried is not quite the middle.
    assert len(tried) <= math.ceil(math.log2(count if met else count - 1)) + met


@pytest.mark.parametrize("count", range(2, 11))
def test_every_row_of_a_few_releases(count):
    inner = range(1, count - 1)
    for first_changed in range(1, count):
        for size in range(count - 1):
            for untriable in itertools.combinations(inner, size):
                check(count, first_changed, frozenset(untriable))


@given(data=st.data(), count=st.integers(2, 300))
def test_every_row(data, count):
    first_changed = data.draw(st.integers(1, count - 1))
    inner = st.integers(1, count - 2) if count > 2 else st.nothing()
    check(count, first_changed, data.draw(st.frozensets(inner)))


def test_thirty_releases_take_five_tries():
    tried = []
    found = find_boundary(30, lambda place: tried.append(place) or place >= 17)
    assert found == Boundary(last_same=16, first_changed=17)
    assert len(tried) <= 5


def test_nothing_is_tried_between_neighbours():
    assert find_boundary(2, lambda _: pytest.fail("tried")) == Boundary(
        last_same=0, first_changed=1
    )


def test_a_row_of_which_none_can_be_tried_has_them_all_between():
    assert find_boundary(5, lambda _: None).between == (1, 2, 3)
