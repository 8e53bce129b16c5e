"""Attribution: rows add up exactly to the change; layers, whole runs, incomplete ledgers."""

import itertools

import msgspec
import pytest
from builders import FULL, LORA, make_record
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import all_rows

from peft_regress.gate.attribution import changed_costs, explain_metric
from peft_regress.runs.ledger import LEDGER_METRICS, pack, rows_of


def record_of(rows, *, off=0, **phases):
    """Return a record whose ledger has these rows and whose metrics are their sums, or off."""
    ledger = pack(rows, peak_phase=phases)
    sums = {metric: sum((rows_of(ledger, metric) or {}).values()) for metric in LEDGER_METRICS}
    return make_record(LORA, {metric: n + off for metric, n in sums.items()}, ledger=ledger)


def flops(**modules):
    """Return the rows of a forward pass: FLOPs of a convolution by module, `__` for a dot."""
    return {
        "forward_flops": {(m.replace("__", "."), "aten.convolution"): n for m, n in modules.items()}
    }


def explained(old, new, metric="forward_flops"):
    """Return the one breakdown of a change."""
    (split,) = explain_metric(metric, record_of(old), record_of(new)).breakdowns
    return split


@settings(deadline=None, derandomize=True, max_examples=25)
@given(old=all_rows(), new=all_rows(), some=st.integers(1, 10**6))
def test_rows_add_up_exactly_on_both_sides_and_what_a_ledger_lacks_is_never_hidden(old, new, some):
    before = record_of(old)
    afters = [(off, record_of(new, off=off)) for off in (0, some)]
    for metric, (off, after) in itertools.product(LEDGER_METRICS, afters):
        change, back = explain_metric(metric, before, after), explain_metric(metric, after, before)
        assert change.change == -back.change
        # A ledger without a module holds nothing, and is said to hold nothing.
        is_held = not change.not_held_by
        assert is_held or off
        assert len(change.breakdowns) == is_held * (1 + metric.startswith("optimizer_flops"))
        assert all(split.unattributed == (off, 0) for split in back.breakdowns)
        for split in change.breakdowns:
            assert split.unattributed == (0, off)
            assert sum(row.change for row in split.rows) == change.change - off
            assert sum(layer.old for layer in split.layers) + split.unmoved == change.old
            assert sum(layer.new for layer in split.layers) + split.unmoved == change.new - off
            by_layer = [row for layer in split.layers for row in layer.rows]
            assert sorted(map(repr, by_layer)) == sorted(map(repr, split.rows))
            assert len({(row.module, row.what) for row in split.rows}) == len(split.rows)
            assert all(row.change for row in split.rows)
            sizes = [abs(row.change) for row in split.rows]
            assert sizes == sorted(sizes, reverse=True), "the largest comes first"


def test_a_module_that_came_and_one_that_went_are_rows_and_marked():
    split = explained(flops(base=10, fc=1, conv=2), flops(lora_A=30, fc=1, conv=3))
    assert [(row.module, row.old, row.new, row.only_in) for row in split.rows] == [
        ("lora_A", 0, 30, "new"),
        ("base", 10, 0, "old"),
        ("conv", 2, 3, None),
    ]
    assert split.unmoved == 1
    # One that only begins to work is no new module.
    held = {"peak_param_bytes": {("conv1.scale", "param"): 4}}
    split = explained({**flops(conv1=5), **held}, {**flops(conv1=5, conv1__scale=5), **held})
    assert [(row.module, row.only_in) for row in split.rows] == [("conv1.scale", None)]


def test_the_parts_of_an_adapter_belong_to_the_layer_that_it_wraps():
    old = flops(layer3__0__conv1__base_layer=100, layer3__0__conv1__lora_A__default=10, fc=4)
    new = flops(layer3__0__conv1__base_layer=100, layer3__0__conv1__lora_A__default=20, fc=5)
    first, second = explained(old, new).layers
    assert (first.layer, first.old, first.new) == ("layer3.0.conv1", 110, 120)
    assert [row.module for row in first.rows] == ["layer3.0.conv1.lora_A.default"]
    assert first.base == "layer3.0.conv1.base_layer"
    assert (second.layer, second.rows[0].module) == ("fc", "fc")


def test_the_innermost_wrapped_layer_counts_and_a_module_in_none_is_its_own_layer():
    split = explained(flops(block=1, block__conv=1), flops(block=2, block__conv=2))
    assert [layer.layer for layer in split.layers] == ["block", "block.conv"]
    rows = flops(a__base_layer__b__base_layer=8, a__base_layer__b__lora_A=1, a__lora_A=1)
    more = flops(a__base_layer__b__base_layer=8, a__base_layer__b__lora_A=2, a__lora_A=3)
    more["peak_param_bytes"] = {("a.base_layer", "param"): 4}
    layers = {layer.layer: layer.change for layer in explained(rows, more).layers}
    assert layers == {"a.base_layer.b": 1, "a": 2}


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        ({"scale": 0}, {"scale": 100}, 1),
        ({"scale": 100}, {"scale": 0}, -1),
        ({"scale": 50}, {"scale": 350}, 3),
        ({"scale": 0}, {"scale": 99}, None),
        ({"scale": 0}, {"scale": 150}, None),
        ({"base_layer": 100}, {"base_layer": 200}, 1),
        ({"base_layer": 300}, {"base_layer": 100}, -2),
        ({"base_layer": 100}, {"base_layer": 250}, None),
        ({"base_layer": 100}, {"base_layer": 0, "lora_A": 60}, None),
        ({"base_layer": 0, "lora_A": 40}, {"base_layer": 100, "lora_A": 40}, 1),
        ({"lora_A": 30, "scale": 0}, {"lora_A": 20, "scale": 110}, 1),
    ],
)
def test_a_change_by_whole_runs_of_the_wrapped_layer_is_recognised(before, after, runs):
    held = {"peak_param_bytes": {("conv1.base_layer", "param"): 4}}
    old, new = (
        {**flops(**{f"conv1__{m}": n for m, n in {"base_layer": 100, **side}.items()}), **held}
        for side in (before, after)
    )
    (layer,) = explained(old, new).layers
    assert layer.base_runs == runs


def test_whole_runs_belong_to_one_operator_in_one_phase():
    place = "conv1.base_layer", "aten.convolution"
    old = {"forward_flops": {place: 100}, "backward_flops": {}}
    new = {"forward_flops": {place: 100, ("conv1.scale", "aten.mm"): 100}, "backward_flops": {}}
    new["backward_flops"] = {("conv1.scale", "aten.convolution"): 100}
    for metric in ("forward_flops", "backward_flops"):
        (layer,) = explained(old, new, metric).layers
        assert layer.base_runs is None


def test_bytes_name_the_category_and_the_phase_of_the_peak():
    old = record_of({"peak_bytes": {("fc", "temp"): 3}}, peak_bytes="backward")
    new = record_of({"peak_bytes": {("fc", "activation"): 8}}, peak_bytes="forward")
    change = explain_metric("peak_bytes", old, new)
    (split,) = change.breakdowns
    assert [(row.module, row.what, row.change) for row in split.rows] == [
        ("fc", "activation", 8),
        ("fc", "temp", -3),
    ]
    assert change.peak_phases == ("backward", "forward")


def test_the_shorter_breakdown_of_the_optimizer_is_the_one_to_read():
    """An operator more is one row by operator; a layer more is one row by module."""
    trained = ["conv1", "conv2", "fc"]
    step = {(m, op): 5 for m in trained for op in ("aten.mul", "aten.add")}
    more_work = {**step, **{(m, "aten.lerp"): 5 for m in trained}}
    more_layers = {**step, ("conv3", "aten.mul"): 5, ("conv3", "aten.add"): 5}
    for new, row in ((more_work, ("", "aten.lerp", 15)), (more_layers, ("conv3", "step", 10))):
        pair = (record_of({"optimizer_flops": step}), record_of({"optimizer_flops": new}))
        change = explain_metric("optimizer_flops", *pair)
        assert [split.by for split in change.breakdowns] == ["module", "operator"]
        assert [(r.module, r.what, r.change) for r in change.shortest] == [row]


def test_a_metric_that_appears_is_explained_from_nothing():
    svd = {("conv1", "aten.linalg_svd"): 9}
    new = record_of({"projection_flops": svd})
    old = make_record(LORA, {"forward_flops": 0}, ledger=record_of(flops(fc=1)).ledger)
    change = explain_metric("projection_flops", old, new)
    assert (change.old, change.new, change.change, change.relative_change) == (None, 9, 9, None)
    assert [(row.old, row.new) for split in change.breakdowns for row in split.rows] == [(0, 9)]


def test_an_empty_ledger_holds_no_metric():
    old, new = record_of(flops(fc=5)), make_record(LORA, {"forward_flops": 9})
    change = explain_metric("forward_flops", old, new)
    assert (change.breakdowns, change.not_held_by) == ((), ("new",))
    assert explain_metric("forward_flops", new, old).not_held_by == ("old",)
    assert explain_metric("forward_flops", new, new).not_held_by == ("old", "new")


def test_every_cost_that_differs_or_that_one_side_has_is_found_in_the_order_of_the_table():
    held = {("fc", "aten.mm"): 5}
    old = record_of({**flops(conv1=1), "backward_flops": held})
    new = record_of({"backward_flops_b32": held, "backward_flops": held, **flops(conv1=2)})
    found = [change.metric for change in changed_costs(old, new)]
    assert found == ["forward_flops", "backward_flops_b32"]
    assert changed_costs(old, old) == ()
    old = make_record(LORA, {"aten_ops": 5, "accuracy": [0.5] * 3})
    new = make_record(LORA, {"total_params": 5, "accuracy": [0.9] * 3})
    found = [(change.metric, change.old, change.new) for change in changed_costs(old, new)]
    assert found == [("total_params", None, 5), ("aten_ops", 5, None)]


def test_a_record_that_failed_has_no_costs():
    fine, failed = record_of(flops(conv1=1)), make_record(FULL, status="error")
    failed = msgspec.structs.replace(failed, case=fine.case)
    assert changed_costs(fine, failed) == ()
    assert changed_costs(failed, fine) == ()
