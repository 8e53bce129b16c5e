"""A case that repeats another run says `repeated` where its accuracy would be."""

import pytest
from builders import FULL, LORA, compare, curve, make_run, repeating, trained
from page_world import make_entry

from peft_regress import report
from peft_regress.report.page.content import Content
from peft_regress.report.page.data import page_data
from peft_regress.report.results import overview
from peft_regress.report.sentences import contents_line

FIRST = "0001_peft-0.18.1"
OLD = [trained(), trained(FULL)]
AGAIN = make_run(repeating(OLD[0]), trained(FULL, curve=curve(2)))


def test_every_format_counts_the_cases_and_says_what_judged_their_trainings():
    comparison = compare(OLD, AGAIN)
    counts = "no regression (2 unchanged; 1 repeats the baseline)"
    text = report.verdict_text(comparison)
    assert text.splitlines()[-1] == counts
    assert f"training of 1 case: equal to {FIRST} bit for bit" in text
    assert "training of 1 case: judged by bounds, their losses depart" in text
    assert counts in report.verdict_markdown(comparison)
    encoded = report.encode_verdict(comparison)
    assert (encoded["counts"], encoded["repeats"]) == ({"unchanged": 2}, 1)
    kinds = [[one["kind"] for one in case["remarks"]] for case in encoded["cases"]]
    assert kinds == [["by bounds"], ["same curve"]]
    assert report.encode_verdict(compare(OLD, OLD))["repeats"] == 0
    assert contents_line(AGAIN) == "2 cases: 2 ok; 1 repeated"


def test_no_table_has_an_accuracy_of_it():
    table = report.results_table(AGAIN)
    rows = {line.split()[0]: line for line in table.splitlines()[1:] if line.startswith("shift")}
    assert "repeated" in rows[LORA]
    assert "91.0 %" not in rows[LORA]
    assert "91.0 %" in rows[FULL]
    text = report.as_text(overview(make_run(repeating(trained())), sources="again.json"))
    assert "repeated" in text


def test_the_page_marks_it():
    entries = [make_entry(1, trained()), make_entry(2, repeating(trained()), role="history")]

    def of_lora():
        """Return the present accuracy of the case as the page has it."""
        data = page_data(Content(entries=entries))
        (case,) = [one for one in data["cases"] if one["id"] == LORA]
        return case["gain"] and case["gain"]["now"]

    assert of_lora() == pytest.approx(0.91)
    entries.append(make_entry(3, *AGAIN, role="run"))
    assert of_lora() is None
