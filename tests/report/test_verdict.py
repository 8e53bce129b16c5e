"""The verdict for a terminal: every failure has a row, the rest is folded, and the lines fit."""

import re
from pathlib import Path

import pytest
from builders import (
    ENVIRONMENT,
    FULL,
    GALORE,
    LEDGER,
    LORA,
    UNSEEN_LORA,
    compare,
    make_record,
    observe_all,
    trained,
)
from hypothesis import strategies as st
from strategies import fuzz, runs

from peft_regress.gate.comparison import Invocation
from peft_regress.gate.verdicts import FAILING, UNACCEPTED, observations_of
from peft_regress.report import case_text, encode_verdict, verdict_markdown, verdict_text
from peft_regress.report.layout import Layout, cells
from peft_regress.runs.run_file import read_run
from peft_regress.runs.schema import Failure
from peft_regress.text import clean

STORAGE = Path(__file__).parents[2] / "baselines" / "Linux-CPython-3.11-64bit"
NEWER = {**ENVIRONMENT, "peft": "0.19.1"}
OUR_CODES = re.compile(r"\x1b\[[0-9;]*m")


def text_of(old, new, *, environment=None, invocation=None, **how):
    """Return the text on a run of some records judged by others."""
    invocation = Invocation(**{"new": "run.json", **(invocation or {})})
    comparison = compare(old, new, environment=environment, invocation=invocation)
    return verdict_text(comparison, **how)


def rows_of(text, case):
    return re.findall(rf"^ +{re.escape(case)}(?: .*)?$", text, re.MULTILINE)


def too_wide(text, width):
    """Return the lines that are too wide although they can be broken.

    A number stays with its unit, and an option with its value.
    """
    found = []
    for line in text.split("\n"):
        joined = re.sub(r"(?<=\d) (?=%|points|\w*FLOP|\w*B\b|nat|m?s\b)", "_", line.strip())
        joined = re.sub(r"(--\w+) ", r"\1=", joined.removesuffix(" \\"))
        if cells(line) > width and " " in joined:
            found.append(line)
    return found


def test_a_regression_is_shown_with_its_cause_its_row_and_what_to_type(snapshot):
    old = make_record(LORA, {"forward_flops": 3_000_000_000}, ledger=LEDGER)
    new = make_record(LORA, {"forward_flops": 3_706_000_000}, ledger=LEDGER)
    assert text_of([old], [new], environment=NEWER) == snapshot


@pytest.mark.parametrize(
    ("environment", "why", "packages"),
    [
        (ENVIRONMENT, "no package changed, so the code under test did", "as in the baseline"),
        (
            {**NEWER, "torch": "2.14.0"},
            "one of the 2 packages that changed",
            "peft 0.18.1 -> 0.19.1; torch 2.13.0 -> 2.14.0",
        ),
    ],
)
def test_without_one_changed_package_none_is_blamed_and_no_bisection_proposed(
    environment, why, packages
):
    old, new = make_record(LORA, {"forward_flops": 1}), make_record(LORA)
    text = text_of([old], [new], environment=environment)
    assert f"why: {why}" in text
    assert f"environment: {packages}" in text
    assert "bisect" not in text


def test_an_unchanged_run_takes_four_lines(snapshot):
    assert text_of([trained(), trained(FULL)], [trained(), trained(FULL)]) == snapshot


def test_an_improvement_is_folded_and_has_a_row_if_it_fails():
    old, new = (make_record(LORA, {"forward_flops": n}) for n in (3_638_000_000, 3_000_000_000))
    folded = text_of([old], [new])
    line = "  improved in 1 case: forward_flops -17.54 %"
    assert f"better than the baseline: 1 case\n{line}" in folded
    assert folded.splitlines()[-1] == "no regression (1 improved)"
    strict = text_of([old], [new], invocation={"strict": True})
    assert strict.startswith("1. improved in 1 case: forward_flops -17.54 %")
    assert re.search(r"^ +shift/lora-r4/resnet18 +3.638 GFLOP +3.000 GFLOP", strict, re.MULTILINE)
    assert "FAILED by strictness: 1 case better than the baseline" in strict


def test_a_finding_is_split_into_failing_rows_and_folded_improvements():
    """Both have one cause: FLOPs fell in both cases, and in one of them the peak rose."""
    before = {"forward_flops": 3_000_000_000, "peak_bytes": 100_000_000}
    after = {**before, "forward_flops": 2_000_000_000}
    worse = {**after, "peak_bytes": 200_000_000}
    old = [make_record(LORA, before), make_record(UNSEEN_LORA, before)]
    text = text_of(old, [make_record(LORA, after), make_record(UNSEEN_LORA, worse)])
    failing, _, folded = text.partition("better than the baseline:")
    assert failing.startswith("1. regressed in 1 case: peak_bytes +100 %")
    assert rows_of(failing, UNSEEN_LORA)
    assert not rows_of(failing, LORA)
    assert f"improved in 1 case: forward_flops -33.33 %\n    {LORA}\n" in folded


def test_a_metric_without_a_ratio_is_named():
    old = make_record(LORA, {"forward_flops": 4})
    text = text_of([old], [make_record(LORA, {"forward_flops": 6, "projection_flops": 5})])
    assert "  new, gone, or zero in the baseline: projection_flops\n" in text


def test_a_case_that_newly_fails_has_a_row_with_its_error():
    error = Failure(type="KeyError", message="'conv1'")
    text = text_of([make_record()], [make_record(status="error", error=error)])
    assert text.startswith("1. newly failing in 1 case: ok -> error (KeyError: 'conv1')")
    (row,) = rows_of(text, LORA)
    assert row.split() == [LORA, "ok", "error", "(KeyError:", "'conv1')"]


@pytest.mark.parametrize(
    ("old", "new", "verdict", "remedy"),
    [
        (
            [LORA, FULL], [LORA],
            "missing in 1 case: expected, but the run has no record of it",
            "add `--retire ID` (or a glob) for each to `accept`",
        ),
        (
            [LORA], [LORA, FULL],
            "new in 1 case: no accepted baseline has it", "until their numbers are",
        ),
    ],
)  # fmt: skip
def test_a_case_that_was_not_compared_is_named_with_its_remedy(old, new, verdict, remedy):
    text = text_of([make_record(name) for name in old], [make_record(name) for name in new])
    assert f"{verdict}\n  {FULL}\n" in text
    assert remedy in " ".join(text.split())
    assert "peft-regress accept run.json" in text


def test_a_changed_definition_is_shown_with_its_remedy():
    text = text_of([make_record()], [make_record(definition="sha256:another")])
    assert text.startswith("incomparable in 1 case: definition changed")
    assert "until the new numbers are accepted" in text


def test_what_is_false_in_a_first_run_is_shown_with_where_in_every_report():
    notes = {"merge_equals_unmerged": "layer4.0.conv1: off by 0.3"}
    record = make_record(invariants={"merge_equals_unmerged": False}, invariant_notes=notes)
    comparison = compare([], [record, make_record(FULL)])
    title = "new in 1 case: merging changes the output (merge_equals_unmerged is false)"
    where = "where: layer4.0.conv1: off by 0.3"
    text = verdict_text(comparison)
    assert text.startswith(title), "before the cases that nothing judges"
    assert where in text
    markdown = verdict_markdown(comparison).replace("\\", "")
    assert title in markdown
    assert where in markdown
    in_case = case_text(comparison.verdict_of(LORA), comparison)
    assert "invariant merge_equals_unmerged is false (layer4.0.conv1: off by 0.3)" in in_case
    (reason,) = encode_verdict(comparison)["cases"][1]["reasons"]
    assert reason["note"] == notes["merge_equals_unmerged"]


def test_where_an_invariant_is_false_is_shown_of_regressions_and_of_known_defects():
    def record(holds, **notes):
        facts = dict.fromkeys(notes or ["frozen"], holds)
        return make_record(invariants=facts, invariant_notes=notes)

    regressed = compare([record(True)], [record(False, frozen="conv1.weight moved")])
    assert "  where: conv1.weight moved\n" in verdict_text(regressed)
    known = compare([record(False)], [record(False, frozen="conv1.weight moved")])
    assert "invariant frozen is false (conv1.weight moved) in 1 case" in verdict_text(known)
    unknown = observe_all([make_record()], known=())
    line = "is new and false: the baseline could not know it (off by 0.3) in 1 case"
    text = verdict_text(compare(unknown, [record(False, merge_equals_unmerged="off by 0.3")]))
    assert line in " ".join(text.split())


def test_without_a_run_file_the_first_step_writes_one():
    text = text_of(
        [make_record(LORA, {"forward_flops": 1})], [make_record()], invocation={"new": None}
    )
    assert "explain" not in text
    assert "run again with `--regress-save run.json`, then:" in text


def test_folded_names_are_cut_unless_the_report_is_verbose():
    broken = {"merge": False}
    records = [make_record(f"task{'x' * i}/m{i}/net{i}", invariants=broken) for i in range(40)]
    brief, whole = text_of(records, records), text_of(records, records, verbose=True)
    assert " ..." in brief
    assert "invariant merge is false in 40 cases" in brief
    for record in records:
        assert record.case.id in whole


def test_rank_4_comes_before_rank_16():
    ids = [f"shift/lora-r{rank}/resnet18" for rank in (1, 4, 16)]
    text = text_of([make_record(n, {"aten_ops": 1}) for n in ids], [make_record(n) for n in ids])
    assert re.findall(r"^ +(shift/\S+) ", text, re.MULTILINE)[: len(ids)] == ids


@pytest.mark.parametrize("width", [100, 80])
def test_the_release_that_doubled_a_convolution_is_shown_at_any_width(width):
    (old,), (new,) = STORAGE.glob("0004_*"), STORAGE.glob("0007_*")
    before, after = read_run(old).run, read_run(new).run
    comparison = compare(observations_of(before, "0004"), after)
    text = verdict_text(comparison, layout=Layout(width=width))
    regressed = [case.id for case in comparison.cases if case.verdict == "regressed"]
    assert len(regressed) == 24
    for case in regressed:
        assert len(rows_of(text, case)) == 1
    flat = " ".join(text.split())
    for number in ("3.854 GFLOP", "7.481 GFLOP", "+94.12 %", "peft 0.21.2 -> 0.14.0"):
        assert number in flat
    assert "REGRESSED (24 regressed, 72 unchanged)" in flat
    assert not too_wide(text, width)
    assert re.search(r"^ +shift/dora-r4/resnet18 +3.854 GFLOP +7.481 GFLOP", text, re.MULTILINE)


hostile_ids = (LORA, UNSEEN_LORA, FULL, GALORE, f"shift/{'m' * 300}/resnet18", "a\x1b[31m/b\n/漢字")
layouts = st.builds(Layout, width=st.integers(120, 200), colour=st.booleans())


@fuzz(runs(ids=hostile_ids), runs(ids=hostile_ids), layouts, st.booleans(), examples=150)
def test_every_failure_of_any_two_runs_is_shown_within_the_width(old, new, layout, strict):
    references, invocation = observations_of(old, "old\x1brun"), Invocation(strict=strict)
    comparison = compare(references, new, invocation=invocation)
    text = verdict_text(comparison, layout=layout)
    plain = OUR_CODES.sub("", text) if layout.colour else text
    assert all(line.isprintable() for line in plain.split("\n"))
    assert not too_wide(plain, layout.width)
    failing = FAILING | UNACCEPTED if strict else FAILING
    for case in comparison.cases:
        if case.verdict in failing:
            # A line may break at the blanks of a hostile id.
            assert clean(case.id, longest=160) in " ".join(plain.split()), case
        elif case.verdict in ("missing", "new", "incomparable"):
            assert case.verdict in plain
    outcomes = ("REGRESSED", "OVER BUDGET", "INCOMPLETE", "no regression")
    assert plain.rstrip().split("\n\n")[-1].startswith(outcomes)
