"""The table of metrics: names, units, directions and kinds; docs/metrics.md has each of them."""

from typing import get_args

from peft_regress import metrics
from peft_regress.metrics import BATCH_SUFFIX, COST_METRICS, METRICS


def test_each_metric_is_of_known_words_that_fit_its_name_with_a_sentence_for_people():
    for name, spec in METRICS.items():
        assert spec.unit in get_args(metrics.Unit), name
        assert spec.direction in get_args(metrics.Direction), name
        assert spec.kind in get_args(metrics.Kind), name
        assert (spec.unit == "byte") == ("_bytes" in name), name
        assert (spec.unit == "flop") == ("_flops" in name), name
        assert spec.direction != "none" or spec.kind == "info", name
        assert spec.about.endswith("."), name
        assert len(spec.about) <= 90, name
        # It makes the metric no other one.
        assert metrics.make_metric(name, 1).spec == spec, name


def test_cost_metrics_and_no_others_stand_at_both_batch_sizes():
    suffixed = {name for name in METRICS if name.endswith(BATCH_SUFFIX)}
    assert suffixed == {name + BATCH_SUFFIX for name in COST_METRICS}
    for name, spec in COST_METRICS.items():
        assert METRICS[name] == METRICS[name + BATCH_SUFFIX] == spec


def test_more_accuracy_and_score_are_better_and_what_others_count_is_informative():
    assert {name for name, spec in METRICS.items() if spec.direction == "higher"} == {
        *("accuracy", "score")
    }
    assert METRICS["trainable_params"].direction == "same"
    informative = {name for name, spec in METRICS.items() if spec.kind == "info"}
    assert {name.removesuffix(BATCH_SUFFIX) for name in informative} == {
        *("paper_forward_flops", "paper_backward_flops"),
        *("attainable_bytes", "relative_step_seconds", "edge_train_resident_bytes"),
    }


def test_metrics_of_ones_own_are_sorted_last_by_name():
    names = ["zebra", "loss", "mean_iou", "total_params"]
    assert sorted(names, key=metrics.metric_order) == ["total_params", "loss", "mean_iou", "zebra"]
