"""The kept ledger: what is left out comes back to the last digit, and little is kept."""

import json
from collections import Counter

import msgspec
import pytest
from builders import LEDGER, LORA, make_record
from ledger_rows import CATEGORIES, all_rows
from strategies import fuzz

from peft_regress.errors import InputError
from peft_regress.metrics import BATCH_SUFFIX, EDGE_METRICS, INFERENCE_METRICS, METRICS
from peft_regress.runs.ledger import (
    LEDGER_METRICS,
    PLAN_METRICS,
    check_sums,
    operator_rows_of,
    pack,
    rows_of,
    with_plans,
)
from peft_regress.runs.schema import Ledger, ModuleCosts


def nonzero(rows):
    return {key: number for key, number in rows.items() if number}


def summed(rows, *, by, other):
    """Add up rows that agree in module (0) or what (1)."""
    totals = Counter()
    for key, number in rows.items():
        totals[(key[0], other) if by == 0 else (other, key[1])] += number
    return nonzero(totals)


@fuzz(all_rows(), examples=200)
def test_what_is_packed_comes_back_exactly(rows):
    ledger = pack(rows, peak_phase={"peak_bytes": "backward"})
    ledger = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(ledger))), Ledger)
    for metric in LEDGER_METRICS:
        found, packed = rows_of(ledger, metric) or {}, rows.get(metric, {})
        if metric.startswith("optimizer_flops"):
            assert found == summed(packed, by=0, other="step")
            assert (operator_rows_of(ledger, metric) or {}) == summed(packed, by=1, other="")
        elif metric.startswith("category_sum_bytes"):
            suffix = metric.removeprefix("category_sum_bytes")
            highs = [rows.get(f"peak_{category}_bytes{suffix}", {}) for category in CATEGORIES]
            assert found == nonzero({key: n for high in highs for key, n in high.items()})
        else:
            assert found == nonzero(packed)
    assert ledger.peak_phase == {"peak_bytes": "backward"}


def test_every_metric_of_flops_or_bytes_is_explained():
    costs = {m for m, spec in METRICS.items() if spec.unit in {"flop", "byte"}}
    # Inference has no ledger: it runs the operators of the forward pass. A file is no memory.
    files = {name for name in EDGE_METRICS if name.endswith(("_program_bytes", "_resident_bytes"))}
    # Peaks outside the measured step, or of none that was taken: the ledger is of that step.
    outside = {"first_step_peak_bytes", "first_step_peak_bytes_b32"}
    outside |= {"attainable_bytes", "attainable_bytes_b32"}
    outside |= {"evaluation_peak_bytes", "saving_peak_bytes"}
    assert costs - INFERENCE_METRICS.keys() - files - outside == LEDGER_METRICS | PLAN_METRICS


def test_plans_are_kept_row_by_row_and_an_update_adds_what_the_optimizer_keeps():
    state = {("conv1", "optimizer"): 8, ("fc", "optimizer"): 2}
    ledger = pack({"optimizer_state_bytes": state}, peak_phase={})
    planned = {("conv1", "grad"): 4, ("conv1", "param"): 4, ("", "unused"): 1}
    plans = {
        "edge_train_planned_bytes": planned,
        "edge_inference_planned_bytes": {("conv1", "activation aten.mm"): 3},
    }
    explained = with_plans(ledger, plans)
    assert {metric: rows_of(explained, metric) for metric in plans} == plans
    assert rows_of(explained, "edge_train_bytes") == {**planned, **state}
    assert rows_of(explained, "edge_merged_inference_planned_bytes") is None
    assert all(rows_of(ledger, metric) is None for metric in PLAN_METRICS)
    check_sums([make_record(LORA, {"edge_train_planned_bytes": 9}, ledger=explained)], "run")
    wrong = make_record(LORA, {"edge_train_planned_bytes": 4}, ledger=explained)
    with pytest.raises(InputError, match="edge_train_planned_bytes"):
        check_sums([wrong], "run")


def at_32(rows):
    """Add what a step is expected to cost at batch 32."""
    growing = {"forward_flops", "paper_forward_flops"}
    larger = {
        metric + BATCH_SUFFIX: {
            (module, what): n * (32 if metric in growing or what in {"activation", "temp"} else 1)
            for (module, what), n in numbers.items()
        }
        for metric, numbers in rows.items()
        if metric + BATCH_SUFFIX in METRICS
    }
    return {**rows, **larger}


HIGH = {"param": 12, "grad": 8, "activation": 3, "optimizer": 16}
USUAL = {
    "forward_flops": {("conv1", "aten.convolution"): 5},
    "paper_forward_flops": {("conv1", "aten.convolution"): 5},
    **{f"peak_{name}_bytes": {("conv1", name): size} for name, size in HIGH.items()},
    "peak_bytes": {("conv1", name): size for name, size in HIGH.items()},
    "optimizer_state_bytes": {("conv1", "optimizer"): 16},
    "adapter_bytes": {("conv1", "ship"): 8},
}


def test_only_what_does_not_follow_is_kept_even_where_it_is_nothing():
    rows, forward = at_32(USUAL), {"aten.convolution": 5}
    costs = ModuleCosts(forward_flops=forward, high_bytes=HIGH)
    assert pack(rows, peak_phase={}) == Ledger(modules={"conv1": costs})
    assert msgspec.to_builtins(costs) == {"forward_flops": forward, "high_bytes": HIGH}
    del rows["peak_bytes"]["conv1", "grad"]
    del rows["peak_bytes_b32"]["conv1", "grad"]
    rows["forward_flops_b32"] = {}
    (costs,) = pack(rows, peak_phase={}).modules.values()
    assert costs.peak_bytes == {"grad": 0}
    assert msgspec.to_builtins(costs)["b32"] == {
        "forward_flops": {"aten.convolution": 0},
        "paper_forward_flops": {"aten.convolution": 160},
    }


def test_where_there_are_no_rows_there_is_none_rather_than_rows_of_nothing():
    empty = [(Ledger(), metric) for metric in LEDGER_METRICS]
    others = ["aten_ops", "accuracy", "trainable_params", "nonsense"]
    for ledger, metric in (*empty, *((LEDGER, metric) for metric in others)):
        assert rows_of(ledger, metric) is None
        assert operator_rows_of(ledger, metric) is None
