"""The table of metrics: the Contract's names, units, directions and kinds."""

from typing import get_args

import pytest

from peft_regress import metrics

CONTRACT = {
    *("trainable_params", "total_params", "adapter_bytes", "forward_flops", "backward_flops"),
    *("optimizer_flops", "projection_flops", "peak_bytes", "peak_param_bytes"),
    *("peak_buffer_bytes", "peak_grad_bytes", "peak_activation_bytes", "peak_temp_bytes"),
    *("peak_optimizer_bytes", "optimizer_state_bytes", "category_sum_bytes"),
    *("paper_forward_flops", "paper_backward_flops", "aten_ops", "first_losses"),
    *("accuracy", "loss", "step_seconds", "relative_step_seconds"),
}
# What came to it since.
ADDED = {
    "filled_losses",
    "optimizer_updates",
    "score",
    *metrics.INFERENCE_METRICS,
    *metrics.EDGE_METRICS,
    "first_step_peak_bytes",
    "evaluation_peak_bytes",
    "saving_peak_bytes",
    "wide_filled_loss",
    "unclipped_norms",
    "gradient_norms",
    "micro_batches",
    "steps_before_event",
}


def test_names_are_those_of_the_contract():
    assert {name.removesuffix(metrics.BATCH_SUFFIX) for name in metrics.METRICS} == CONTRACT | ADDED


def test_each_metric_has_a_sentence_for_people_that_makes_it_no_other_metric():
    for name, spec in metrics.METRICS.items():
        assert spec.about.endswith("."), name
        assert len(spec.about) <= 90, name
        assert metrics.make_metric(name, 1).spec == spec, name


def test_cost_metrics_and_no_others_stand_at_both_batch_sizes():
    suffixed = {name for name in metrics.METRICS if name.endswith(metrics.BATCH_SUFFIX)}
    assert suffixed == {name + metrics.BATCH_SUFFIX for name in metrics.COST_METRICS}
    for name, spec in metrics.COST_METRICS.items():
        assert metrics.METRICS[name] == metrics.METRICS[name + metrics.BATCH_SUFFIX] == spec


@pytest.mark.parametrize("name", metrics.METRICS)
def test_unit_direction_and_kind_are_known_words_that_fit_the_name(name):
    spec = metrics.METRICS[name]
    assert spec.unit in get_args(metrics.Unit)
    assert spec.direction in get_args(metrics.Direction)
    assert spec.kind in get_args(metrics.Kind)
    assert (spec.unit == "byte") == ("_bytes" in name)
    assert (spec.unit == "flop") == ("_flops" in name)
    assert spec.direction != "none" or spec.kind == "info"


def test_more_accuracy_and_score_are_better_and_more_trained_parameters_neither():
    higher = {name for name, spec in metrics.METRICS.items() if spec.direction == "higher"}
    assert higher == {"accuracy", "score"}
    assert metrics.METRICS["trainable_params"].direction == "same"


def test_the_papers_counters_relative_time_and_a_processs_memory_are_informative():
    informative = {
        name.removesuffix(metrics.BATCH_SUFFIX)
        for name, s in metrics.METRICS.items()
        if s.kind == "info"
    }
    assert informative == {
        "paper_forward_flops",
        "paper_backward_flops",
        "relative_step_seconds",
        "edge_train_resident_bytes",
    }


def test_metrics_of_ones_own_are_sorted_last_by_name():
    names = ["zebra", "loss", "mean_iou", "total_params"]
    assert sorted(names, key=metrics.metric_order) == ["total_params", "loss", "mean_iou", "zebra"]
