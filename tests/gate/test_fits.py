"""Which devices a case fits into, and a fit that is lost."""

import pytest
from builders import LORA, compare, make_record, observe

from peft_regress.devices import DeviceClass
from peft_regress.gate import judge_case
from peft_regress.gate.budgets import fits
from peft_regress.report import verdict_text
from peft_regress.runs.schema import OwnBound

METRICS = {"peak_bytes": 1000, "peak_param_bytes": 80, "peak_buffer_bytes": 10}
GENEROUS = {name: OwnBound(bound=9.0, reason="any") for name in METRICS}


def device(name, memory, storage=None):
    return DeviceClass(
        name=name, title=name, memory_bytes=memory, storage_bytes=storage, compute="", source="s"
    )


def judged(old, new, *devices):
    sides = [observe(make_record(LORA, metrics, bounds=GENEROUS)) for metrics in (old, new)]
    return judge_case(LORA, *sides, devices=devices)


@pytest.mark.parametrize(
    ("memory", "storage", "fitting"),
    [(1000, 90, True), (1000, None, True), (999, 90, False), (1000, 89, False)],
)
def test_a_case_fits_by_its_peak_and_by_its_weights(memory, storage, *, fitting):
    assert fits(make_record(LORA, METRICS), device("board", memory, storage)) is fitting


def test_whether_a_case_fits_is_unknown_if_it_was_not_measured():
    assert fits(make_record(LORA, {"loss": [1.0]}), device("board", 1)) is None
    part = {name: value for name, value in METRICS.items() if name != "peak_buffer_bytes"}
    assert fits(make_record(LORA, part), device("board", 1000, 90)) is None
    assert fits(make_record(LORA, part), device("board", 1000)) is True
    assert fits(make_record(LORA, part), device("board", 999, 90)) is False


def test_a_fit_that_is_lost_is_a_regression_whatever_the_bounds_allow():
    board = device("board", 1100, 100)
    case = judged(METRICS, {**METRICS, "peak_bytes": 1101}, board)
    (reason,) = case.reasons
    assert (case.verdict, reason.metric) == ("regressed", "fits board")
    assert (reason.old, reason.new, reason.limit) == (1000, 1101, 1100)
    (reason,) = judged(METRICS, {**METRICS, "peak_param_bytes": 91}, board).reasons
    assert (reason.old, reason.new, reason.limit) == (90, 101, 100)


def test_a_fit_that_never_was_or_is_gained_is_no_reason():
    more = {**METRICS, "peak_bytes": 2000}
    assert judged(METRICS, more, device("small", 500)).verdict == "unchanged"
    assert judged(more, METRICS, device("board", 1100)).verdict == "unchanged"
    assert judged(METRICS, more, device("large", 5000)).verdict == "unchanged"
    assert judged(METRICS, more).verdict == "unchanged"


def test_the_fits_that_many_cases_lose_are_one_finding_with_device_value_and_limit():
    ids = [LORA, "unseen/lora-r4/resnet18"]
    old, new = (
        [make_record(name, {**METRICS, "peak_bytes": peak}, bounds=GENEROUS) for name in ids]
        for peak in (1000, 1200)
    )
    comparison = compare(old, new, devices=(device("board", 1100),))
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cause.what, len(finding.cases)) == ("fit", "board", 2)
    text = verdict_text(comparison)
    assert "fits board: 1.172 KiB (limit 1.074 KiB, missed by 100 B, 9.09 %)" in text
