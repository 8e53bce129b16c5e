"""The table of metrics: the Contract's names, units, directions and kinds."""

from __future__ import annotations

from typing import get_args

import pytest

from peft_regress.metrics import (
    BATCH_SUFFIX,
    COST_METRICS,
    EDGE_METRICS,
    INFERENCE_METRICS,
    INVARIANTS,
    KNOWN_BEFORE,
    METRICS,
    Direction,
    Kind,
    Unit,
    make_metric,
    metric_order,
)

CONTRACT = {
    "trainable_params",
    "total_params",
    "adapter_bytes",
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "projection_flops",
    "peak_bytes",
    "peak_param_bytes",
    "peak_buffer_bytes",
    "peak_grad_bytes",
    "peak_activation_bytes",
    "peak_temp_bytes",
    "peak_optimizer_bytes",
    "optimizer_state_bytes",
    "category_sum_bytes",
    "paper_forward_flops",
    "paper_backward_flops",
    "aten_ops",
    "first_losses",
    "accuracy",
    "loss",
    "step_seconds",
    "relative_step_seconds",
}
# What came to it since.
ADDED = {
    "filled_losses",
    "optimizer_updates",
    "score",
    *INFERENCE_METRICS,
    *EDGE_METRICS,
    "first_step_peak_bytes",
    "evaluation_peak_bytes",
    "saving_peak_bytes",
    "wide_filled_loss",
}


def test_names_are_those_of_the_contract():
    assert {name.removesuffix(BATCH_SUFFIX) for name in METRICS} == CONTRACT | ADDED


def test_each_metric_has_a_sentence_for_people_that_makes_it_no_other_metric():
    for name, spec in METRICS.items():
        assert spec.about.endswith("."), name
        assert len(spec.about) <= 90, name
        assert make_metric(name, 1).spec == spec, name


def test_each_cost_metric_stands_at_both_batch_sizes():
    for name, spec in COST_METRICS.items():
        assert METRICS[name] == METRICS[name + BATCH_SUFFIX] == spec


def test_only_cost_metrics_have_a_batch_size():
    suffixed = {name for name in METRICS if name.endswith(BATCH_SUFFIX)}
    assert suffixed == {name + BATCH_SUFFIX for name in COST_METRICS}


@pytest.mark.parametrize("name", METRICS)
def test_unit_direction_and_kind_are_known_words(name):
    spec = METRICS[name]
    assert spec.unit in get_args(Unit)
    assert spec.direction in get_args(Direction)
    assert spec.kind in get_args(Kind)


@pytest.mark.parametrize("name", [name for name in METRICS if name.endswith("_bytes")])
def test_bytes_are_bytes(name):
    assert METRICS[name].unit == "byte"


@pytest.mark.parametrize("name", [name for name in METRICS if "_flops" in name])
def test_flops_are_flops(name):
    assert METRICS[name].unit == "flop"


def test_a_changed_number_of_trained_parameters_is_no_improvement():
    assert METRICS["trainable_params"].direction == "same"


def test_more_accuracy_and_score_are_better_and_less_of_the_rest():
    higher = {name for name, spec in METRICS.items() if spec.direction == "higher"}
    assert higher == {"accuracy", "score"}


def test_what_is_judged_has_a_direction():
    assert all(spec.direction != "none" for spec in METRICS.values() if spec.kind != "info")


def test_the_papers_counters_relative_time_and_a_processs_memory_are_informative():
    informative = {
        name.removesuffix(BATCH_SUFFIX) for name, s in METRICS.items() if s.kind == "info"
    }
    assert informative == {
        "paper_forward_flops",
        "paper_backward_flops",
        "relative_step_seconds",
        "edge_train_resident_bytes",
    }


def test_what_schema_1_could_measure_is_what_it_measured():
    """A constant: a metric that comes later must not be expected of the files of that time."""
    assert {"accuracy", "filled_losses", "peak_bytes_b32", "stored_adapter_loads"} <= KNOWN_BEFORE
    later = ADDED - {"filled_losses"}
    assert not later & {name.removesuffix(BATCH_SUFFIX) for name in KNOWN_BEFORE}
    assert len(KNOWN_BEFORE) == 55
    assert {*METRICS, *INVARIANTS} >= KNOWN_BEFORE


def test_metrics_of_ones_own_are_sorted_last_by_name():
    names = ["zebra", "loss", "mean_iou", "total_params"]
    assert sorted(names, key=metric_order) == ["total_params", "loss", "mean_iou", "zebra"]
