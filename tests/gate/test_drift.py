"""Drift: small changes add up, accepted ones do not count, noise between machines is no drift."""

import dataclasses
from pathlib import Path

import pytest
from builders import FULL, LORA, VALUES, compare, make_record, make_run, references_with_drift
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.gate.comparison import Invocation
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.metrics import METRICS, Metric
from peft_regress.report import case_text, encode_verdict, verdict_markdown
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Acceptance, Failure

quickly = settings(deadline=None, derandomize=True, max_examples=60)
GRAVITY = {"improved": 0, "unchanged": 1, "regressed": 2}
START = 100_000_000


def entry(number, *records, day=None, **run):
    """Return an accepted entry in memory; the day of its date is its number, or another one."""
    day = number if day is None else day
    date = f"{2026 + day // 28}-01-{1 + day % 28:02d}T00:00:00+00:00"
    accepted = Acceptance(
        reason="for a test", date=date, role=run.pop("role", "baseline"), entry="Linux/0001_x"
    )
    made = make_run(*records, accepted=accepted, **run)
    return RunFile(path=Path(f"{number:04d}_peft.json"), run=made, document={})


def record_of(metrics, **more):
    """Return a record with these metrics; a plain number is `peak_bytes`."""
    return make_record(
        metrics={"peak_bytes": metrics} if isinstance(metrics, int) else metrics, **more
    )


def judged(history, new):
    """Judge a record by a history of records, each accepted in turn."""
    stored = [
        entry(number, item if hasattr(item, "metrics") else record_of(item))
        for number, item in enumerate(history, 1)
    ]
    run = make_run(new if hasattr(new, "metrics") else record_of(new))
    references = references_with_drift(stored)
    (case,) = compare(references, run).cases
    return case


def test_changes_within_the_bound_that_add_up_are_a_regression_or_an_improvement():
    case = judged([START, START + 90_000], START + 180_000)
    assert case.verdict == "regressed"
    (reason,) = case.reasons
    assert (reason.name, reason.old, reason.new) == ("peak_bytes", START, START + 180_000)
    assert (reason.relative_change, reason.bound) == (0.0018, DEFAULT_POLICY.bytes_bound)
    assert reason.since == "0001_peft"
    assert reason.title == "peak_bytes (drift since 0001_peft)"
    assert judged([START, START - 90_000], START - 180_000).verdict == "improved"
    # Compared with only the newest entry it passes.
    assert judged([START + 90_000], START + 180_000).verdict == "unchanged"


@pytest.mark.parametrize(
    ("name", "step"),
    [("accuracy", [-0.03] * 3), ("loss", [0.03] * 3), ("first_losses", [[0, 0.008, 0, 0]] * 3)],
)
def test_function_that_slips_below_its_margin_each_time_is_found(name, step):
    def moved(times):
        def add(value, by):
            pairs = isinstance(value, list)
            return [add(*p) for p in zip(value, by, strict=True)] if pairs else value + times * by

        return {name: add(VALUES[name], step)}

    history = [moved(times) for times in range(2)]
    assert judged(history[:1], moved(1)).verdict == "unchanged"
    (reason,) = judged(history, moved(2)).reasons
    assert (reason.name, reason.since, reason.verdict) == (name, "0001_peft", "regressed")


def test_an_accepted_drift_never_alarms_again():
    """After the sum was reported and accepted, drift counts from the accepted entry."""
    history = [START, START + 90_000, START + 180_000]
    assert judged(history, START + 180_000).verdict == "unchanged"
    assert judged(history, START + 250_000).verdict == "unchanged"
    (reason,) = judged([*history, START + 250_000], START + 300_000).reasons
    assert (reason.since, reason.old) == ("0003_peft", START + 180_000)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("forward_flops", [100, 101, 101]),
        ("aten_ops", [900, 901, 901]),
        ("step_seconds", [[0.05] * 3, [0.1] * 3, [0.2] * 3]),
    ],
)
def test_exact_metrics_and_seconds_do_not_drift(name, values):
    *history, new = ({name: value} for value in values)
    assert judged(history, new).verdict == "unchanged"


def test_a_change_beyond_the_bound_is_reported_once_and_not_as_drift():
    case = judged([START, START + 90_000], 2 * START)
    assert [(reason.name, reason.since) for reason in case.reasons] == [("peak_bytes", None)]


CUTS = {
    "definition": record_of(START + 90_000, definition="sha256:other"),
    "error": make_record(status="error", error=Failure(type="KeyError", message="x")),
    "absent": record_of({"forward_flops": 1}),
    "unit": record_of(
        {"peak_bytes": Metric(value=START + 90_000, unit="count", direction="lower", kind="bytes")}
    ),
}


@pytest.mark.parametrize("between", CUTS.values(), ids=list(CUTS))
def test_what_cannot_be_compared_cuts_the_history(between):
    history = [START, between, START + 90_000]
    assert judged(history, START + 180_000).verdict == "unchanged"
    assert judged([*history, START + 180_000], START + 270_000).verdict == "regressed"


def test_another_number_of_seeds_cuts_the_history():
    seeds = [{"accuracy": [0.9 - 0.03 * n] * count} for n, count in enumerate((3, 2, 3, 3))]
    assert judged(seeds[:3], seeds[3]).verdict == "unchanged"


@pytest.mark.parametrize(
    ("first", "between", "since"),
    [
        ({"role": "history"}, [], []),
        ({}, [entry(2, make_record(FULL))], ["0001_peft"]),
        # Dates do not order the entries.
        ({"day": 9}, [], ["0001_peft"]),
    ],
    ids=["role history", "without the case", "later date"],
)
def test_an_entry_of_role_history_or_without_the_case_is_no_origin(first, between, since):
    newest = entry(3, record_of(START + 90_000))
    references = references_with_drift([entry(1, record_of(START), **first), *between, newest])
    assert references[LORA].run_name == "0003_peft"
    (case,) = compare(references, [record_of(START + 180_000)], expected=[LORA]).cases
    assert [reason.since for reason in case.reasons] == since


KINDS = {
    "peak_bytes": st.integers(99_900_000, 100_200_000),
    "accuracy": st.lists(st.floats(0.5, 0.6), min_size=3, max_size=3),
    "loss": st.lists(st.floats(0.5, 0.7), min_size=3, max_size=3),
    "first_losses": st.lists(
        st.lists(st.floats(2, 2.00003), min_size=1, max_size=1), min_size=3, max_size=3
    ),
}


def worsened(name, value, by):
    if isinstance(value, list):
        return [worsened(name, item, by) for item in value]
    return value - by if METRICS[name].direction == "higher" else value + by


@pytest.mark.parametrize("name", ["peak_bytes", "accuracy", "loss"])
@quickly
@given(data=st.data())
def test_worse_never_passes_if_better_fails(name, data):
    history = [{name: value} for value in data.draw(st.lists(KINDS[name], min_size=1, max_size=5))]
    value = data.draw(KINDS[name])
    scale = 10_000 if name == "peak_bytes" else 0.01
    amounts = sorted(scale * data.draw(st.integers(0, 20)) for _ in range(2))
    less, more = (judged(history, {name: worsened(name, value, by)}).verdict for by in amounts)
    assert GRAVITY[less] <= GRAVITY[more]


@pytest.mark.parametrize("name", KINDS)
@quickly
@given(data=st.data())
def test_a_longer_history_never_makes_the_verdict_milder_and_its_newest_entry_passes(name, data):
    """Otherwise the gate would stay red, and nobody could change that."""
    history = [{name: value} for value in data.draw(st.lists(KINDS[name], min_size=1, max_size=6))]
    new = {name: data.draw(KINDS[name])}
    newest, whole = judged(history[-1:], new).verdict, judged(history, new).verdict
    assert newest in (whole, "unchanged")
    assert judged(history, history[-1]).verdict == "unchanged"


def test_a_drift_is_shown_with_the_command_that_lists_its_steps(snapshot):
    stored = [entry(1, record_of(START)), entry(2, record_of(START + 90_000))]
    comparison = compare(
        references_with_drift(stored),
        make_run(record_of(START + 180_000)),
        invocation=Invocation(new="run.json"),
    )
    assert case_text(comparison.cases[0], comparison) == snapshot
    there = dataclasses.replace(comparison, invocation=Invocation(baselines="there"))
    elsewhere = case_text(there.cases[0], there)
    assert f"--case {LORA} --metric peak_bytes --baselines there" in " ".join(elsewhere.split())
    markdown = verdict_markdown(comparison)
    assert "| peak\\_bytes (drift since 0001\\_peft) of |" in markdown
    assert f"peft-regress history --case {LORA} --metric peak_bytes" in markdown
    ((reason,),) = (case["reasons"] for case in encode_verdict(comparison)["cases"])
    assert reason["metric"] == "peak_bytes (drift since 0001_peft)"
