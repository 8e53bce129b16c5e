"""Attribution: the rows add up to the change, exactly, the largest first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.attribution import explain_metric
from peft_regress.metrics import METRICS
from peft_regress.records import Ledger

sizes = st.integers(min_value=0, max_value=2**62)
modules = st.sampled_from(["", "conv1", "layer1.0.conv1", "fc"])
ops = st.sampled_from(["conv", "matmul"])
flops = st.dictionaries(
    st.sampled_from(["forward", "backward", "optimizer"]),
    st.dictionaries(modules, st.dictionaries(ops, sizes)),
)
held = st.dictionaries(
    st.sampled_from(["param", "grad", "activation"]), st.dictionaries(modules, sizes)
)
ledgers = st.builds(Ledger, flops=flops, bytes=held)


def _total(metric: str, ledger: Ledger) -> int:
    if metric == "peak_bytes":
        return sum(size for places in ledger.bytes.values() for size in places.values())
    places = ledger.flops.get(metric.removesuffix("_flops"), {})
    return sum(value for found in places.values() for value in found.values())


@pytest.mark.parametrize(
    "metric", ["forward_flops", "backward_flops", "optimizer_flops", "peak_bytes"]
)
@settings(deadline=None, derandomize=True, max_examples=60)
@given(old=ledgers, new=ledgers)
def test_rows_add_up_exactly_to_the_change(metric: str, old: Ledger, new: Ledger) -> None:
    rows = explain_metric(metric, old, new)
    assert sum(row.change for row in rows) == _total(metric, new) - _total(metric, old)
    assert all(row.change for row in rows)
    assert len({(row.module, row.what) for row in rows}) == len(rows)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(old=ledgers, new=ledgers)
def test_largest_change_comes_first_and_swapping_the_sides_turns_the_signs(
    old: Ledger, new: Ledger
) -> None:
    forth, back = (explain_metric("forward_flops", *pair) for pair in ((old, new), (new, old)))
    changes = [abs(row.change) for row in forth]
    assert changes == sorted(changes, reverse=True)
    assert [(row.module, row.what, -row.change) for row in forth] == [
        (row.module, row.what, row.change) for row in back
    ]


def test_a_module_that_came_and_one_that_went_are_rows() -> None:
    old = Ledger(flops={"forward": {"base": {"conv": 10}, "fc": {"matmul": 1}}})
    new = Ledger(flops={"forward": {"lora_A": {"conv": 30}, "fc": {"matmul": 1}}})
    rows = explain_metric("forward_flops", old, new)
    assert [(row.module, row.what, row.old, row.new) for row in rows] == [
        ("lora_A", "conv", 0, 30),
        ("base", "conv", 10, 0),
    ]


def test_phases_are_kept_apart() -> None:
    old, new = Ledger(), Ledger(flops={"backward": {"fc": {"matmul": 5}}})
    assert explain_metric("forward_flops", old, new) == ()
    assert [row.change for row in explain_metric("backward_flops", old, new)] == [5]


def test_bytes_name_the_category() -> None:
    (row,) = explain_metric("peak_bytes", Ledger(), Ledger(bytes={"activation": {"fc": 8}}))
    assert (row.module, row.what, row.change) == ("fc", "activation", 8)


ATTRIBUTED = {"forward_flops", "backward_flops", "optimizer_flops", "peak_bytes"}


@pytest.mark.parametrize("metric", sorted(METRICS.keys() - ATTRIBUTED))
def test_what_the_ledger_of_batch_1_does_not_hold_is_not_explained(metric: str) -> None:
    new = Ledger(flops={"forward": {"fc": {"matmul": 5}}}, bytes={"param": {"": 5}})
    assert explain_metric(metric, Ledger(), new) == ()
