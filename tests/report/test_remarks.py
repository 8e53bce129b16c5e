"""What every report tells beside the verdicts, and numbers of a case's author."""

from builders import FULL, LORA, UNSEEN_LORA, VALUES, compare, make_record, make_run

from peft_regress import report
from peft_regress.gate import Invocation
from peft_regress.metrics import Metric
from peft_regress.project.budgets import Bound, Budget


def flat(text):
    return " ".join(text.replace("\\", "").split())


def test_a_new_metric_of_many_cases_is_one_line_and_no_verdict():
    ids = [LORA, UNSEEN_LORA, FULL]
    old = [make_record(name) for name in ids]
    new = [
        make_record(name, {**VALUES, "inference_flops": number})
        for number, name in enumerate(ids, start=7)
    ]
    comparison = compare(old, new)
    assert (comparison.exit_code, comparison.counts) == (0, {"unchanged": 3})
    line = "inference_flops is new: the baseline could not know it in 3 cases"
    assert line in flat(report.verdict_text(comparison))
    assert line in flat(report.verdict_markdown(comparison))
    one = report.case_text(comparison.cases[0], comparison)
    assert "inference_flops is new: 9 FLOP; the baseline could not know it" in one
    encoded = report.encode_verdict(comparison)["cases"][0]
    assert [one for one in encoded["remarks"] if one["subject"] != "training"] == [
        {"kind": "new metric", "subject": "inference_flops", "old": None, "new": 9, "text": ""}
    ]


def test_what_fails_by_strictness_alone_is_named_with_the_command_that_accepts_it():
    old = make_record(LORA, VALUES, budget=Budget(peak=2 * 10**8))
    new = make_record(LORA, VALUES, budget=Budget(peak=3 * 10**8))
    for strict in (False, True):
        comparison = compare([old], [new], invocation=Invocation(strict=strict))
        text, markdown = report.verdict_text(comparison), report.verdict_markdown(comparison)
        assert "budget peak is looser than the baseline's: 190.7 MiB -> 286.1 MiB" in text
        for shown in (text, markdown):
            assert ("peft-regress accept" in shown) == strict
            assert ("FAILED by strictness: 1 case with a looser bound or budget" in shown) == strict


def test_nobody_is_told_to_accept_what_is_over_budget():
    over = make_record(LORA, VALUES, budget=Budget(peak=1))
    comparison = compare([make_record(LORA, VALUES)], [over])
    for text in (
        report.verdict_text(comparison),
        report.verdict_markdown(comparison),
        report.case_text(comparison.cases[0], comparison),
    ):
        assert "peft-regress accept" not in text
        assert "accepting does not change this" in text


def test_a_metric_of_ones_own_is_a_finding_of_its_own_in_every_report():
    def side(value):
        own = Metric(value=value, unit="count", direction="lower", kind="exact")
        return make_record(LORA, {**VALUES, "missed_defects": own})

    comparison = compare([side(3)], [side(4)])
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cause.what) == ("own", "missed_defects")
    for text in (
        report.verdict_text(comparison),
        report.verdict_markdown(comparison),
        report.case_text(comparison.cases[0], comparison),
    ):
        assert "missed_defects" in text.replace("\\", "")
        assert "+33.33 %" in text
    (reason,) = report.encode_verdict(comparison)["cases"][0]["reasons"]
    assert (reason["metric"], reason["old"], reason["new"]) == ("missed_defects", 3, 4)


def test_a_change_of_a_score_is_a_difference_in_every_report():
    bounds = {"score": Bound(bound=0.5, reason="three seeds")}
    old, new = (
        make_record(LORA, {**VALUES, "score": [value] * 3}, bounds=bounds) for value in (-2.0, -3.0)
    )
    comparison = compare([old], [new])
    for text in (
        report.verdict_text(comparison),
        report.verdict_markdown(comparison),
        report.case_text(comparison.cases[0], comparison),
    ):
        assert "0.5 (three seeds)" in text
        assert "-1" in text
        assert "-2.000" in text
    assert "score" in report.results_table(make_run(new))
    assert "score" not in report.results_table(make_run(make_record(LORA)))
