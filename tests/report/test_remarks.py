"""What every report tells beside the verdicts, and numbers of a case's author."""

from builders import FULL, LORA, UNSEEN_LORA, VALUES, compare, make_record, make_run

from peft_regress import report
from peft_regress.metrics import Metric
from peft_regress.project.budgets import Bound


def reports(comparison):
    """Return every report on a comparison, and on its first case, without line ends."""
    texts = (
        report.verdict_text(comparison),
        report.verdict_markdown(comparison),
        report.case_text(comparison.cases[0], comparison),
    )
    return [" ".join(text.replace("\\", "").split()) for text in texts]


def test_a_new_metric_of_many_cases_is_one_line_and_no_verdict():
    ids = [LORA, UNSEEN_LORA, FULL]
    old = [make_record(name) for name in ids]
    new = [
        make_record(name, {**VALUES, "inference_flops": number})
        for number, name in enumerate(ids, start=7)
    ]
    comparison = compare(old, new)
    assert (comparison.exit_code, comparison.counts) == (0, {"unchanged": 3})
    *of_all, of_one = reports(comparison)
    for text in of_all:
        assert "inference_flops is new: the baseline could not know it in 3 cases" in text
    assert "inference_flops is new: 9 FLOP; the baseline could not know it" in of_one
    encoded = report.encode_verdict(comparison)["cases"][0]
    assert [one for one in encoded["remarks"] if one["subject"] != "training"] == [
        {"kind": "new metric", "subject": "inference_flops", "old": None, "new": 9, "text": ""}
    ]


def test_a_higher_peak_that_a_step_could_take_is_a_remark():
    sides = [[make_record(LORA, {**VALUES, "attainable_bytes": n})] for n in (2**20, 2**21)]
    comparison = compare(*sides)
    assert (comparison.exit_code, comparison.counts) == (0, {"unchanged": 1})
    for text in reports(comparison):
        assert "attainable_bytes is higher: 1.000 MiB" in text
        assert "2.000 MiB; shown, not judged" in text
    assert "attainable" not in reports(compare(*reversed(sides)))[-1]


def test_a_metric_of_ones_own_is_a_finding_of_its_own_in_every_report():
    def side(value):
        own = Metric(value=value, unit="count", direction="lower", kind="exact")
        return make_record(LORA, {**VALUES, "missed_defects": own})

    comparison = compare([side(3)], [side(4)])
    for text in reports(comparison):
        assert "missed_defects" in text
        assert "+33.33 %" in text
    (reason,) = report.encode_verdict(comparison)["cases"][0]["reasons"]
    assert (reason["metric"], reason["old"], reason["new"]) == ("missed_defects", 3, 4)


def test_a_change_of_a_score_is_a_difference_in_every_report():
    bounds = {"score": Bound(bound=0.5, reason="three seeds")}
    old, new = (
        make_record(LORA, {**VALUES, "score": [value] * 3}, bounds=bounds) for value in (-2.0, -3.0)
    )
    comparison = compare([old], [new])
    for text in reports(comparison):
        assert "0.5 (three seeds)" in text
        assert "-1" in text
        assert "-2.000" in text
    assert "score" in report.results_table(make_run(new))
    assert "score" not in report.results_table(make_run(make_record(LORA)))
