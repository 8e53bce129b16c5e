"""The verdict on the page, and the view Changes: what the gate said, and green only if it is."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager

import pytest
from builders import FULL, LEDGER, LORA, VALUES, make_record, split_by
from page_browser import PageUnderTest
from test_page_data import PEFT, entry

from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.report.page.data import page_data
from peft_regress.runs.schema import Failure, Limits, Selection

pytestmark = pytest.mark.browser
FLOPS = VALUES["forward_flops"]


def record(name=LORA, **more):
    flops = more.pop("flops", FLOPS)
    return make_record(name, {**split_by(LEDGER), "forward_flops": flops}, ledger=LEDGER, **more)


def page_of(*entries, **how):
    """Return the data of a page whose newest entry is judged by the one before."""
    sides = [observations_of(one.run, one.name) for one in entries[-2:]]
    newest = judge(*sides, complete=entries[-1].run.selection.complete, **how)
    return json.loads(json.dumps(page_data(entries, lambda asked: asked.run, newest=newest)))


@pytest.fixture
def open_page(browser, tmp_path):
    @contextmanager
    def opening(data):
        with PageUnderTest(browser, data, tmp_path) as page:
            yield page
            assert page.complaints == []

    return opening


OLD = entry(0, record(LORA), record(FULL))
OLD_AGAIN = entry(1, record(LORA), record(FULL))
WORSE = entry(1, record(LORA, flops=2 * FLOPS), record(FULL), role="run")
SAME = entry(1, record(LORA), record(FULL), role="run")
LESS = entry(1, record(LORA), role="run")
OVER = entry(1, record(LORA, budget=Limits(peak=1)), record(FULL), role="run")


def test_a_regression_is_the_first_thing_on_the_page(open_page):
    with open_page(page_of(OLD, WORSE)) as page:
        first = page.locator("> *").first
        assert "verdict" in first.get_attribute("class")
        assert first.locator("h1.bad").inner_text() == "REGRESSED"
        assert first.locator(".counts li").all_inner_texts() == ["1 regressed", "1 unchanged"]
        assert page.page.title().startswith("REGRESSED")
        assert "forward_flops +100 %" in page.texts(".findings .headline")[0]
        row = page.texts(".findings tbody tr")[0].split("\t")
        assert row[0] == LORA
        assert row[4] == "+100 %"
        page.locator("summary:has-text('An example')").first.click()
        assert "forward_flops: " in page.locator(".findings pre").first.inner_text()
        page.locator("summary:has-text('What to type')").click()
        assert "peft-regress accept" in page.locator(".steps").inner_text()


def test_a_case_has_its_verdict_and_none_is_ok_in_green(open_page):
    with open_page(page_of(OLD, WORSE)) as page:
        page.go(f"case/{LORA.replace('/', '%2F')}")
        assert page.texts(".lead strong.bad") == ["regressed"]
        assert "forward_flops: " in page.texts("[aria-label^='What the verdict'] li")[0]
        page.go(f"case/{FULL.replace('/', '%2F')}")
        assert page.texts(".lead strong.good") == ["unchanged"]
        page.go("table")
        states = {row.split("\t")[0]: row.split("\t")[-1] for row in page.texts("tbody tr")}
        assert states == {LORA: "regressed", FULL: "unchanged"}
        page.locator("[data-column=status]").click()
        assert page.texts("tbody th") == [LORA, FULL]
        page.locator("[data-column=status]").click()
        assert page.texts("tbody th") == [FULL, LORA]
        page.locator("[name=status]").select_option("regressed")
        assert page.texts("tbody th") == [LORA]
        page.go("table?text=unchanged")
        assert page.texts("tbody th") == [FULL]
        header, *rows = page.page.evaluate("casesAsCsv(DATA.cases)").splitlines()
        assert header.endswith(",status,verdict")
        assert sorted(row.split(",")[-2:] for row in rows) == [
            ["ok", "regressed"], ["ok", "unchanged"],
        ]  # fmt: skip


def test_changes_of_a_run_of_an_older_release_are_from_what_judges_it(open_page):
    older = {**PEFT, "peft": "0.14.0"}
    run = entry(1, record(LORA, flops=2 * FLOPS), record(FULL), role="run", environment=older)
    with open_page(page_of(OLD, run)) as page:
        page.go(f"case/{LORA.replace('/', '%2F')}")
        assert page.locator("[name=by]").input_value() == "date"
        (row,) = page.texts(
            "[aria-label=Metrics] tr:has-text('forward_flops'):not(:has-text('_b'))"
        )
        assert "+100 %" in row
        assert "worse" in row


def test_an_error_that_was_mended_and_returns_is_no_known_one(open_page):
    failing = {"status": "error", "error": Failure(type="RuntimeError", message="again")}
    broken = make_record(LORA, {}, **failing)
    with open_page(page_of(entry(0, broken), OLD_AGAIN, entry(2, broken, role="run"))) as page:
        assert page.texts("h1.bad") == ["REGRESSED"]
        assert "1 error)" in page.locator("").inner_text()
        assert "known error" not in page.locator("").inner_text()
        page.go(f"case/{LORA.replace('/', '%2F')}")
        assert page.texts(".lead strong.bad") == ["newly failing"]


def test_a_partial_run_says_how_it_was_narrowed_in_each_comparison(open_page):
    narrowed = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[])
    part = entry(1, record(LORA), record(FULL), role="run", selection=narrowed)
    with open_page(page_of(OLD, part)) as page:
        assert page.texts("h1.open") == ["no regression in what was selected"]
        assert "partial run: -k lora" in page.texts(".verdict .setting")
        page.go("changes?old=0000_peft&new=0001_peft")
        assert "partial run: -k lora" in page.texts(".verdict .setting")


def test_cases_that_repeat_a_run_are_counted_beside_the_verdict(open_page):
    data = page_of(OLD, SAME)
    data["comparisons"]["verdict"]["repeats"] = 1
    with open_page(data) as page:
        assert page.texts(".counts li") == ["2 unchanged", "1 repeated"]


@pytest.mark.parametrize(
    ("newest", "kind", "words"),
    [
        (SAME, "good", "no regression"),
        (LESS, "open", "INCOMPLETE: not everything expected was compared"),
        (OVER, "bad", "OVER BUDGET"),
    ],
    ids=["unchanged", "incomplete", "over budget"],
)
def test_green_is_for_exit_code_0_alone(open_page, newest, kind, words):
    with open_page(page_of(OLD, newest)) as page:
        assert page.texts(f"h1.{kind}") == [words]
        assert page.locator("h1").count() == 1
        text = page.locator("").inner_text()
        assert ("missing in 1 case" in text) == (kind == "open")
        assert (page.locator("[aria-label='Over budget'] tbody tr").count() == 1) == (kind == "bad")


HISTORY = (
    entry(0, record(LORA), record(FULL)),
    entry(1, record(LORA, flops=3 * FLOPS), record(FULL), role="history"),
    entry(2, record(LORA), record(FULL)),
)


def test_pickers_choose_what_is_compared_and_stand_in_the_address(open_page):
    with open_page(page_of(*HISTORY)) as page:
        page.go("changes")
        assert page.texts("h2.outcome") == ["no regression"]
        assert "judged by what was accepted before it" in page.texts(".kicker")[0]
        page.locator("[name=new]").select_option("0001_peft")
        # Without an OLD, the entry before.
        assert page.texts("h2.outcome") == ["REGRESSED"]
        page.locator("[name=old]").select_option("0002_peft")
        assert page.texts(".kicker") == ["0001_peft judged by 0002_peft"]
        assert "forward_flops +200 %" in page.texts(".findings .headline")[0]
        assert "peft-regress compare 0002_peft 0001_peft" in page.texts(".command")[0]
        page.load(page.page.url.partition("#/")[2])
        assert page.texts(".kicker") == ["0001_peft judged by 0002_peft"]
        page.locator("[name=new]").select_option("0000_peft")
        assert page.texts("h2.outcome") == ["no regression"]
        page.locator("[name=old]").select_option("0000_peft")
        assert "OLD and NEW are the same" in page.locator("").inner_text()


def test_a_pair_that_was_not_judged_says_so_and_shows_its_values(open_page):
    data = page_of(*HISTORY)
    data["comparisons"]["pairs"] = []
    data["comparisons"]["options"] = "--baselines 'other place'"
    with open_page(data) as page:
        page.go("changes?old=0000_peft&new=0001_peft")
        assert page.texts("h2.outcome.open") == ["not judged in this page"]
        assert page.locator(".good, .bad").count() == 0
        (command,) = page.texts(".command code")
        assert command == "peft-regress compare 0000_peft 0001_peft --baselines 'other place'"
        (row,) = page.texts("tbody tr")
        assert row.split("\t")[:2] == [LORA, "forward_flops"]
        assert row.split("\t")[-1] == "+200 %"


def test_names_are_cut_at_their_beginning_and_defects_have_a_plural(open_page):
    path = "/a/long/folder/of/many/runs/bench-14.json"
    run = entry(1, record(LORA), record(FULL), role="run")
    data = page_of(OLD, dataclasses.replace(run, name=path))
    data["comparisons"]["verdict"]["counts"] = {"known_defect": 2, "unchanged": 1}
    with open_page(data) as page:
        assert page.texts(".counts li") == ["2 known defects", "1 unchanged"]
        page.go("changes")
        label = page.locator("[name=new] option").first.inner_text()
        assert label == "…er/of/many/runs/bench-14.json (run)"
        assert page.page.evaluate("entryNumber(1)") == "…nch-14.json"


def test_paper_has_all_columns_and_forced_colours_mark_the_view(open_page):
    with open_page(page_of(*HISTORY)) as page:
        page.go("table")
        page.page.emulate_media(media="print")
        assert (
            page.locator(".scroll").evaluate("box => getComputedStyle(box).overflow") == "visible"
        )
        page.page.emulate_media(media="screen", forced_colors="active")
        borders = page.page.locator("#nav a").evaluate_all(
            "all => all.map(link => getComputedStyle(link).borderBottomColor)"
        )
        assert len(set(borders)) == 2


def test_an_entry_that_only_the_page_of_a_link_had_is_named(open_page):
    with open_page(page_of(*HISTORY)) as page:
        page.go("changes?old=0001_peft&new=0009_peft")
        assert 'the entry "0009_peft", which this page has not.' in page.locator("").inner_text()
        page.go("changes?old=0001_peft&new=0002_peft")
        assert "which this page has not" not in page.locator("").inner_text()


def test_entries_without_a_common_case_cannot_be_compared(open_page):
    data = page_of(entry(0, record(LORA)), entry(1, record(FULL)))
    with open_page(data) as page:
        page.go("changes?old=0000_peft&new=0001_peft")
        assert page.texts("h2.outcome") == ["no case in common"]


def test_lines_at_a_glance_mark_what_moved_and_lead_to_its_history(open_page):
    with open_page(page_of(*HISTORY)) as page:
        lines = page.locator(".glance a.spark")
        moved = page.locator(".glance a.moved-line")
        assert moved.count() == 1
        assert lines.count() > moved.count()
        label = moved.get_attribute("aria-label")
        assert label.startswith(f"forward_flops of {LORA}: ")
        assert "worse +200 % at 0001_peft" in label
        assert moved.locator(".spark-mark").count() == 2
        moved.click()
        assert page.texts("h1") == ["History"]
        assert page.locator("[name=case]").input_value() == LORA
