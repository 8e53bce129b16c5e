"""A metric or an invariant that the reference's run could not know is information."""

import msgspec
import pytest
from builders import (
    FULL,
    KNOWN_BEFORE,
    LORA,
    OTHER_MACHINE,
    make_metric,
    make_record,
    make_run,
    observe,
    shard,
    write_run,
)

from peft_regress.gate import judge_case, observations_of
from peft_regress.gate.findings import find_causes
from peft_regress.invariants import KNOWN
from peft_regress.metrics import EDGE_METRICS, INFERENCE_METRICS, METRICS, metric_order
from peft_regress.report.verdict.finding import finding_headline
from peft_regress.runs.run_file import read_run


def reference(**more):
    return observe(make_record(LORA, {"peak_bytes": 1}), **more)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *((name, KNOWN_BEFORE) for name in (*INFERENCE_METRICS, "mean_iou")),
        # The reference was not asked for a program.
        *((name, KNOWN) for name in EDGE_METRICS),
    ],
)
def test_a_new_metric_on_an_old_reference_is_information(name, known):
    metric = make_metric(name if name in METRICS else "forward_flops", 5)
    new = observe(make_record(LORA, {"peak_bytes": 1, name: metric}))
    case = judge_case(LORA, reference(known=known), new)
    assert case.verdict == "unchanged"
    (remark,) = case.remarks
    assert (remark.kind, remark.subject, remark.new) == ("new metric", name, 5)


PEAK, PROGRAM = {"peak_bytes": 1}, {"peak_bytes": 1, "edge_train_planned_bytes": 5}


@pytest.mark.parametrize(
    ("old", "known", "new"),
    [
        # The reference's run could have measured it.
        (PEAK, {*KNOWN_BEFORE, "inference_flops"}, {**PEAK, "inference_flops": 5}),
        (PEAK, KNOWN_BEFORE, {**PEAK, "projection_flops": 5}),
        # It has it, whatever its run says.
        ({"inference_flops": 5}, (), {"inference_flops": 6}),
        # Programs were measured before, of which one is gone, or is measured by another metric.
        (PROGRAM, KNOWN, PEAK),
        (PROGRAM, KNOWN, {**PROGRAM, "edge_ops": 1}),
    ],
)
def test_what_the_reference_could_know_is_judged(old, known, new):
    sides = (
        observe(make_record(LORA, old), known=known),
        observe(make_record(LORA, new), known=KNOWN),
    )
    assert judge_case(LORA, *sides).verdict == "regressed"


@pytest.mark.parametrize("lost", ["inference_flops", "invariant merge_equals_unmerged"])
def test_what_an_older_version_cannot_measure_is_neither_gone_nor_passed(lost):
    name = lost.removeprefix("invariant ")
    costs = {"peak_bytes": 1, "forward_flops": 5}
    full = {**costs, name: 5} if name == lost else costs
    held = {} if name == lost else {name: True}
    old = observe(make_record(LORA, full, invariants=held), known=KNOWN)
    less = make_record(LORA, costs)
    case = judge_case(LORA, old, observe(less, known={*KNOWN} - {name}))
    assert [(one.name, one.new, one.verdict) for one in case.reasons] == [
        (lost, None, "incomparable")
    ]
    # The version that can measure it lost it.
    assert judge_case(LORA, old, observe(less, known=KNOWN)).verdict == "regressed"
    # A real regression stays one.
    worse = make_record(LORA, {**costs, "forward_flops": 6})
    assert judge_case(LORA, old, observe(worse, known={*KNOWN} - {name})).verdict == "regressed"


def test_a_metric_of_ones_own_that_is_gone_is_a_regression_whatever_the_run_knew():
    old = observe(make_record(LORA, {"mean_iou": make_metric("forward_flops", 5)}), known=KNOWN)
    assert judge_case(LORA, old, observe(make_record(LORA, {}), known=())).verdict == "regressed"


def test_all_that_an_older_version_cannot_measure_is_one_finding():
    old = {
        name: observe(make_record(name, {"peak_bytes": 1, **dict.fromkeys(INFERENCE_METRICS, 5)}))
        for name in (LORA, FULL)
    }
    new = {name: observe(make_record(name, {"peak_bytes": 1})) for name in (LORA, FULL)}
    verdicts = [judge_case(name, old[name], new[name]) for name in (LORA, FULL)]
    (finding,) = find_causes(verdicts, old, new)
    assert set(finding.cases) == {LORA, FULL}
    assert finding_headline(finding).endswith(
        "does not measure " + ", ".join(sorted(INFERENCE_METRICS, key=metric_order))
    )


@pytest.mark.parametrize("holds", [True, False, None])
def test_a_new_invariant_is_information_even_if_it_is_false(*, holds):
    name = "merge_equals_unmerged"
    new = observe(make_record(LORA, {"peak_bytes": 1}, invariants={name: holds}))
    case = judge_case(LORA, reference(known=KNOWN_BEFORE - {name}), new)
    assert (case.verdict, [remark.subject for remark in case.remarks]) == (
        "unchanged",
        [f"invariant {name}"],
    )
    broken = observe(make_record(LORA, {"peak_bytes": 1}, invariants={name: False}))
    assert judge_case(LORA, reference(), broken).verdict == "regressed"


def test_shards_knew_together_what_each_of_them_knew(tmp_path):
    for index, (name, known) in enumerate([(LORA, ["loss", "score"]), (FULL, ["loss"])], start=1):
        run = msgspec.structs.replace(shard(index, make_record(name)), metrics_known=known)
        write_run(tmp_path / f"{index}.json", run)
    assert read_run(tmp_path).run.metrics_known == ["loss"]


def test_a_record_of_another_machine_is_judged_as_of_that_machine():
    run = make_run(make_record(machine=OTHER_MACHINE))
    assert observations_of(run, "old")[LORA].machine == OTHER_MACHINE
