"""A budget as its author writes it, as numbers in a record."""

from __future__ import annotations

import pytest

from peft_regress.budgets import Budget
from peft_regress.errors import InputError
from peft_regress.runs.schema import Limits, limits_of


def test_amounts_become_bytes_and_flops() -> None:
    budget = Budget(
        peak="256 MiB", update="2 GFLOP", ship="500 kB", score=1, edge_train="1 MB", device="board"
    )
    assert limits_of(budget) == Limits(
        peak=2**28, update=2 * 10**9, ship=500_000, score=1.0, edge_train=10**6, device="board"
    )


def test_shares_become_fractions_of_the_other_case() -> None:
    budget = Budget(of="toy/full/net", peak_of=0.85, peak_b32_of=2, update_of=1, ship_of=0.1)
    assert limits_of(budget) == Limits(
        of="toy/full/net", peak_of=0.85, peak_b32_of=2.0, update_of=1.0, ship_of=0.1
    )


def test_what_has_no_budget_has_no_limit() -> None:
    assert limits_of(Budget()) == Limits()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"of": "toy/full/net"}, "budget of='toy/full/net' limits nothing: add a share, such as"),
        ({"peak_of": 0.85}, "budget peak_of=0.85 is of no case: name it, as in of='digits/full"),
        ({"of": "toy/full/net", "ship_of": 0}, "budget ship_of=0 is not a share, such as 0.85"),
        ({"of": "toy/full/net", "ship_of": "85 %"}, "budget ship_of='85 %' is not a share"),
        ({"of": "toy/full/net", "update_of": float("inf")}, "update_of=inf is not a share"),
        ({"of": "full", "peak_of": 0.85}, "budget of='full' is not a case id, which has the form"),
        ({"of": 3, "peak_of": 0.85}, "budget of=3 is not a case id"),
    ],
)
def test_a_share_that_is_none_or_of_no_case_is_refused(parts: dict, message: str) -> None:
    with pytest.raises(InputError) as raised:
        Budget(**parts)
    assert message in str(raised.value)
