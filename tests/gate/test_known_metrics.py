"""A metric or an invariant that the reference's run could not know is information."""

import msgspec
import pytest
from builders import (
    FULL,
    KNOWN_BEFORE,
    LORA,
    OTHER_MACHINE,
    compare,
    make_metric,
    make_record,
    make_run,
    observe,
    shard,
    write_run,
)

from peft_regress.gate import judge_case, observations_of
from peft_regress.invariants import KNOWN
from peft_regress.metrics import EDGE_METRICS, INFERENCE_METRICS, METRICS, metric_order
from peft_regress.report.verdict.finding import finding_headline
from peft_regress.runs.run_file import read_run


def judged(old, new, *, known=KNOWN_BEFORE, newly=KNOWN, held=(), **more):
    """Judge a case by metrics; `known` could be measured for the old side, `newly` for the new."""
    sides = make_record(LORA, old, invariants=held), make_record(LORA, new, **more)
    return judge_case(LORA, observe(sides[0], known=known), observe(sides[1], known=newly))


PEAK, PROGRAM = {"peak_bytes": 1}, {"peak_bytes": 1, "edge_train_planned_bytes": 5}


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
    case = judged(PEAK, {**PEAK, name: metric}, known=known)
    assert case.verdict == "unchanged"
    (remark,) = case.remarks
    assert (remark.kind, remark.subject, remark.new) == ("new metric", name, 5)


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
        # A metric of one's own that is gone, whatever the run knew.
        ({**PEAK, "mean_iou": make_metric("forward_flops", 5)}, KNOWN, PEAK),
    ],
)
def test_what_the_reference_could_know_is_judged(old, known, new):
    assert judged(old, new, known=known).verdict == "regressed"


@pytest.mark.parametrize("lost", ["inference_flops", "invariant merge_equals_unmerged"])
def test_what_an_older_version_cannot_measure_is_neither_gone_nor_passed(lost):
    name = lost.removeprefix("invariant ")
    less = {"peak_bytes": 1, "forward_flops": 5}
    full = {**less, name: 5} if name == lost else less
    how = {"known": KNOWN, "held": {} if name == lost else {name: True}}
    older = {**how, "newly": {*KNOWN} - {name}}
    reasons = [(one.name, one.new, one.verdict) for one in judged(full, less, **older).reasons]
    assert reasons == [(lost, None, "incomparable")]
    # The version that can measure it lost it, and a real regression stays one.
    assert judged(full, less, **how).verdict == "regressed"
    assert judged(full, {**less, "forward_flops": 6}, **older).verdict == "regressed"


def test_all_that_an_older_version_cannot_measure_is_one_finding():
    before = {**PEAK, **dict.fromkeys(INFERENCE_METRICS, 5)}
    old, new = ([make_record(name, one) for name in (LORA, FULL)] for one in (before, PEAK))
    (finding,) = compare(old, new).findings
    assert set(finding.cases) == {LORA, FULL}
    names = sorted(INFERENCE_METRICS, key=metric_order)
    assert finding_headline(finding).endswith("does not measure " + ", ".join(names))


@pytest.mark.parametrize("holds", [True, False, None])
def test_a_new_invariant_is_information_even_if_it_is_false(*, holds):
    name = "merge_equals_unmerged"
    case = judged(PEAK, PEAK, known=KNOWN_BEFORE - {name}, invariants={name: holds})
    assert case.verdict == "unchanged"
    assert [remark.subject for remark in case.remarks] == [f"invariant {name}"]
    assert judged(PEAK, PEAK, invariants={name: False}).verdict == "regressed"


def test_shards_knew_together_what_each_of_them_knew(tmp_path):
    for index, (name, known) in enumerate([(LORA, ["loss", "score"]), (FULL, ["loss"])], start=1):
        run = msgspec.structs.replace(shard(index, make_record(name)), metrics_known=known)
        write_run(tmp_path / f"{index}.json", run)
    assert read_run(tmp_path).run.metrics_known == ["loss"]


def test_a_record_of_another_machine_is_judged_as_of_that_machine():
    run = make_run(make_record(machine=OTHER_MACHINE))
    assert observations_of(run, "old")[LORA].machine == OTHER_MACHINE
