"""The verdict as Markdown, parsed as GitHub does: its content, its size, hostile strings."""

import re

import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    GALORE,
    LORA,
    UNSEEN_LORA,
    VALUES,
    compare,
    forward_ledger,
    make_metric,
    make_record,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.gate.comparison import Invocation
from peft_regress.metrics import METRICS
from peft_regress.report import verdict_markdown
from peft_regress.report.document import Code
from peft_regress.report.markdown import cell, escape_markdown
from peft_regress.report.verdict.sections import LONGEST_BYTES, MARKER
from peft_regress.runs.schema import Failure
from peft_regress.text import clean

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NEWER = {**ENVIRONMENT, "peft": "0.19.1"}
MORE_FLOPS = {**VALUES, "forward_flops": 4_000_000_000, "backward_flops": 8_000_000_000}
HOSTILE = {
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "controls": "a\x00b\rc\x08d\x7fe\x85f\u2028g\u202eh",
    "lines": "one\ntwo\n\n# INJECTED\n\n- no regression",
    "html": "<script>alert(1)</script><img src=x onerror=y></details></summary>&amp;",
    "comment": "a --> b <!-- c --!> -->",
    "markdown": "| a | b |\n# head **bold** [x](javascript:y) ![i](z) `code` ~~s~~ \\| \\",
    "fence": "```\nout\n```\n~~~ ```` `",
    "mention": "@octocat (@org/team) a@b.example",
    "references": "#12 owner/repo#3 GH-4 http://e.example, https://e.example www.e.example [1]: /x",
    "long": "x" * 10_000,
    "surrogate": "\ud800",
    "empty": "",
    "pipes": "|" * 50 + "`|`" + "\\|" * 9,
}


def page(old, new, *, environment=NEWER, typed=None):
    """Return the Markdown on a run of some records judged by others."""
    invocation = Invocation(**{"new": "r.json", **(typed or {})})
    return verdict_markdown(compare(old, new, environment=environment, invocation=invocation))


def check(text):
    """Assert that a page has only our structure, and no link or mention."""
    assert text.startswith(f"{MARKER}\n\n## peft\\_regress: ")
    assert len(text.encode()) <= LONGEST_BYTES
    opened = 0
    for token in MARKDOWN.parse(text.removeprefix(MARKER)):
        if token.type == "html_block":
            assert re.fullmatch(
                r"<details><summary>[^<>]*</summary>\n?|</details>\n?", token.content
            )
            opened += 1 if token.content.startswith("<details>") else -1
            assert opened in (0, 1)
        assert token.type not in {"hr", "blockquote_open", "ordered_list_open", "lheading"}
        if token.type == "heading_open":
            assert token.markup in {"##", "###"}
    assert opened == 0
    for token in (one for block in MARKDOWN.parse(text) for one in block.children or ()):
        assert token.type in {"text", "code_inline", "strong_open", "strong_close", "text_special"}
    shown = "\n".join(
        "".join(one.content if one.type.startswith("text") else " " for one in token.children or ())
        for token in MARKDOWN.parse(text)
    )
    assert not re.search(r"@\w|#\d|://|\bwww\.|\bgh-\d", shown, re.IGNORECASE)
    summaries = " ".join(re.findall(r"<summary>(.*?)</summary>", text))
    assert not re.search(r"@\w|#\d|://|\bwww\.", summaries)


def check_tables(text):
    """Assert that no string adds a cell to a row. A code block may have lines like a table."""
    lines = text.removeprefix(MARKER).splitlines()
    for token in MARKDOWN.parse(text.removeprefix(MARKER)):
        if token.type == "table_open":
            rows = lines[slice(*token.map)]
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert token.type != "inline" or not re.search(r"^\| ---", token.content, re.MULTILINE)


def cells(text):
    """Return the rows of all tables as their cells' text."""
    rows, row = [], None
    for token in MARKDOWN.parse(text):
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            rows.append(row)
            row = None
        elif token.type == "inline" and row is not None:
            row.append("".join(child.content for child in token.children))
    return rows


BEFORE = forward_ledger({"layer1.conv": {"convolution": 3_638_000_000}})
AFTER = forward_ledger(
    {
        "layer1.conv": {"convolution": 3_638_000_000},
        "layer1.conv.lora_A": {"convolution": 300_000_000},
        "layer2.conv.lora_A": {"convolution": 62_000_000},
    }
)


def test_a_regression_has_a_headline_a_row_its_cause_and_commands(snapshot):
    old = [make_record(LORA, ledger=BEFORE), make_record(FULL)]
    new = [make_record(LORA, MORE_FLOPS, ledger=AFTER), make_record(FULL)]
    text = page(old, new)
    check(text)
    assert text == snapshot


def test_rows_after_the_sixth_of_a_finding_are_folded():
    ids = [case.id for case in matrix_cases("default")][:20]
    text = page(
        [make_record(name) for name in ids], [make_record(name, MORE_FLOPS) for name in ids]
    )
    check(text)
    assert "regressed in 20 cases" in text or text.count("###") > 3
    rows = {row[0] for row in cells(text)}
    assert set(ids) <= rows


def test_a_green_run_has_the_headline_and_what_judged_it(snapshot):
    text = page([make_record()], [make_record()])
    check(text)
    assert text == snapshot


def test_known_defects_and_improvements_are_folded():
    broken = {"merge": False}
    old = [make_record(LORA, invariants=broken), make_record(FULL)]
    new = [make_record(LORA, invariants=broken), make_record(FULL, {**VALUES, "aten_ops": 1})]
    text = page(old, new)
    check(text)
    assert "<summary>known defects, in the baseline too: 1 case</summary>" in text
    assert f"- invariant merge is false in 1 case: `{LORA}`" in text
    assert "<summary>better than the baseline: 1 case</summary>" in text
    assert "FAILED" not in text
    assert "- FAILED by strictness: 1 case better than the baseline, not accepted" in page(
        old, new, typed={"strict": True}
    )


def test_a_missing_case_can_be_retired_but_not_accepted():
    text = page([make_record(LORA), make_record(FULL)], [make_record(FULL)])
    assert 'peft-regress accept r.json --reason "..." --retire ID\n' in text
    assert "if the new numbers are right" not in text


def test_many_missing_cases_are_folded():
    ids = sorted(case.id for case in matrix_cases("default"))
    text = page([make_record(name) for name in ids], [make_record(ids[0])])
    check(text)
    shown, _, folded = text.partition("<details><summary>95 more cases</summary>")
    assert "\n".join(ids[1:7]) in shown
    assert "\n".join(ids[7:]) in folded


def regressed_everywhere(ids, invariants=()):
    """Return (old, new) records in which all judged metrics of every case got worse."""
    costs = [
        metric
        for metric, spec in METRICS.items()
        if spec.kind in {"exact", "bytes"} and spec.direction == "lower"
    ]
    return [
        [
            make_record(
                name, dict.fromkeys(costs, value), invariants=dict.fromkeys(invariants, holds)
            )
            for name in ids
        ]
        for value, holds in ((1000, True), (2000, False))
    ]


def test_every_metric_of_the_matrix_regressed_fits_and_names_every_case():
    ids = [case.id for case in matrix_cases("default")]
    old, new = regressed_everywhere(ids)
    assert len(old[0].metrics) > 20
    text = page(old, new)
    check(text)
    assert "REGRESSED (102 regressed)" in text
    for name in ids:
        assert name in text
    assert "Shortened" not in text
    assert "# if the new numbers are right" in text


@pytest.mark.parametrize(
    "filling", ["漢", *(pytest.param(one, marks=pytest.mark.nightly) for one in "x&|")]
)
def test_hostile_names_of_a_whole_matrix_fit(filling):
    """96 cases, 12 invariants each, all with names of 3,000 characters."""
    long = filling * 3_000
    ids = [f"{long}/m/{index}" for index in range(96)]
    names = [f"{long}{index}" for index in range(12)]
    text = page(*regressed_everywhere(ids, names))
    check(text)
    assert "REGRESSED (96 regressed)" in text
    assert "Shortened to the length that GitHub accepts: `peft-regress compare" in text


def test_each_case_with_a_finding_of_its_own_fits():
    ids = [case.id for case in matrix_cases("default")]
    old = [make_record(name, invariants={f"{name} {n}": True for n in range(12)}) for name in ids]
    new = [make_record(name, invariants={f"{name} {n}": False for n in range(12)}) for name in ids]
    text = page(old, new)
    check(text)
    assert text.count("- regressed in 1 case: ") == 12
    assert "- and 1212 more" in text
    assert "REGRESSED (102 regressed)" in text


@pytest.mark.parametrize("name", ["a-method-of-some-length", "漢" * 19])
def test_more_cases_than_fit_are_counted(name):
    """The limit is of bytes, not of characters."""
    ids = [f"{name}/m/x{n:04}" for n in range(1300)]
    old = [make_record(name, {"aten_ops": 1}) for name in ids]
    text = page(old, [make_record(name, {"aten_ops": 2}) for name in ids])
    check(text)
    assert "- regressed in 1,300 cases: aten\\_ops +100 %" in text


def hostile_sides(text):
    name = text.replace("/", " ")
    ids = [f"{name}/lora-r4/{name}", f"shift/{name}/x", GALORE, FULL, f"{name}/head/resnet18"]
    ledger = forward_ledger({text: {text: 5}})
    metrics = {"forward_flops": 4, text: make_metric("backward_flops", 4)}
    more = {"forward_flops": 9, text: make_metric("backward_flops", 9)}
    failed = Failure(type=text, message=text)
    old = [
        make_record(ids[0], metrics),
        make_record(ids[1], invariants={text: True}),
        make_record(GALORE),
        make_record(FULL, status="error", error=failed),
        make_record(UNSEEN_LORA, invariants={text: False}),
    ]
    new = [
        make_record(ids[0], more, ledger=ledger),
        make_record(ids[1], invariants={text: False}),
        make_record(GALORE, status="error", error=failed),
        make_record(FULL),
        make_record(ids[4]),
        make_record(UNSEEN_LORA, invariants={text: False}),
    ]
    return old, new


def hostile_page(text, **typed):
    old, new = hostile_sides(text)
    return page(old, new, environment={"peft": text, text: "1"}, typed=typed)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_nothing_breaks_out_of_table_code_details_or_marker_and_no_option_is_markdown(text):
    made = hostile_page(text)
    check_tables(made)
    assert len(cells(made)) > 3
    check(hostile_page(text, old=text, new=text or None, suite=clean(text), baselines=text))
    check(made)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(st.sampled_from("|`\\<>-!#@[]()*_~&;:/w.1 \n\t\x00a\u200b$"), max_size=25))
def test_any_string_stays_text(text):
    made = hostile_page(text)
    check(made)
    check_tables(made)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("|`\\<>-!#@[]()*_~&;:/w.1 aG")))
def test_a_cell_shows_what_it_was_given(text):
    flat = clean(text)
    (row,) = cells(f"| {cell(Code(flat))} | {escape_markdown(flat)} |\n| --- | --- |\n")
    assert [one.replace("\u200b", "") for one in row] == [flat, flat]
