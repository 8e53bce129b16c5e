"""Attribution: rows add up exactly to the change; layers, whole runs, incomplete ledgers."""

import itertools

import pytest
from builders import LORA, make_record
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


LORA_A = "layer3__0__conv1__lora_A__default"


@pytest.mark.parametrize(
    ("base", "old", "new", "layers"),
    [
        (
            {"layer3__0__conv1__base_layer": 100}, {LORA_A: 10, "fc": 4}, {LORA_A: 20, "fc": 5},
            [("layer3.0.conv1", 110, 120), ("fc", 4, 5)],
        ),
        # A module in no adapter is its own layer, and the innermost wrapped layer counts.
        (
            {}, {"block": 1, "block__conv": 1}, {"block": 2, "block__conv": 2},
            [("block", 1, 2), ("block.conv", 1, 2)],
        ),
        (
            {"a__base_layer__b__base_layer": 8, "a__base_layer": 4},
            {"a__base_layer__b__lora_A": 1, "a__lora_A": 1},
            {"a__base_layer__b__lora_A": 2, "a__lora_A": 3},
            [("a", 5, 7), ("a.base_layer.b", 9, 10)],
        ),
    ],
)  # fmt: skip
def test_the_parts_of_an_adapter_belong_to_the_layer_that_it_wraps(base, old, new, layers):
    split = explained(flops(**base, **old), flops(**base, **new))
    assert [(one.layer, one.old, one.new) for one in split.layers] == layers


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


def test_the_shorter_breakdown_of_the_optimizer_is_the_one_to_read():
    """An operator more is one row by operator; a layer more is one row by module."""
    trained = ["conv1", "conv2", "fc"]
    step = {(m, op): 5 for m in trained for op in ("aten.mul", "aten.add")}
    more_work = {**step, **{(m, "aten.lerp"): 5 for m in trained}}
    more_layers = {**step, ("conv3", "aten.mul"): 5, ("conv3", "aten.add"): 5}
    for new, row in ((more_work, ("", "aten.lerp", 15)), (more_layers, ("conv3", "step", 10))):
        pair = (record_of({"optimizer_flops": one}) for one in (step, new))
        change = explain_metric("optimizer_flops", *pair)
        assert [(one.module, one.what, one.change) for one in change.shortest] == [row]


def test_every_cost_that_differs_or_that_one_side_has_is_found_in_the_order_of_the_table():
    same = {"backward_flops": {("fc", "aten.mm"): 5}}
    old, new = record_of({**same, **flops(conv1=1)}), record_of({**flops(conv1=2), **same})
    old.metrics.update(make_record(LORA, {"aten_ops": 5, "accuracy": [0.5] * 3}).metrics)
    new.metrics.update(make_record(LORA, {"total_params": 5, "accuracy": [0.9] * 3}).metrics)
    assert [(one.metric, one.old, one.new) for one in changed_costs(old, new)] == [
        ("total_params", None, 5),
        ("forward_flops", 1, 2),
        ("aten_ops", 5, None),
    ]
    failed = make_record(LORA, status="error")
    for pair in ((old, old), (old, failed), (failed, old)):
        assert changed_costs(*pair) == (), "a record that failed has no costs"
