"""A case that was not trained says `same computation` where its accuracy would be."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
from builders import FULL, LORA, certified, compare, make_run, observe, trained

from peft_regress.baselines.history import select_histories
from peft_regress.baselines.series import Entry
from peft_regress.gate.comparison import Invocation
from peft_regress.gate.judge import judge
from peft_regress.report import (
    as_text,
    case_text,
    encode_history,
    encode_verdict,
    history_document,
    results_table,
    verdict_markdown,
    verdict_text,
)
from peft_regress.report.export import EXPORTERS, texts_of
from peft_regress.report.export.exporter import left_out
from peft_regress.report.overview import overview
from peft_regress.report.page.data import page_data
from peft_regress.report.sentences import contents_line
from peft_regress.runs.schema import Acceptance, Run

OLD = [trained(), trained(FULL)]
QUICK = make_run(certified(OLD[0]), OLD[1])
UNLIKE = make_run(certified(OLD[0], graph="sha256:other"), OLD[1])
ACCURACIES = ("91.0 %", "0.91", "90.0 %", "92.0 %")


def test_every_format_counts_the_cases() -> None:
    comparison = compare(OLD, QUICK)
    assert verdict_text(comparison).splitlines()[-1] == (
        "no regression (2 unchanged; 1 same computation)"
    )
    for text in (verdict_text(comparison), verdict_markdown(comparison)):
        assert "same computation as 0001_peft-0.18.1" in text.replace("\\", "")
        assert "no times" not in text
        assert "times not judged" not in text
    encoded = encode_verdict(comparison)
    assert (encoded["counts"], encoded["same_computation"]) == ({"unchanged": 2}, 1)
    (remark,) = encoded["cases"][1]["remarks"]
    assert (remark["kind"], remark["text"]) == ("same computation", "0001_peft-0.18.1")
    assert encode_verdict(compare(OLD, OLD))["same_computation"] == 0
    assert contents_line(QUICK) == "2 cases: 2 ok; 1 same computation"


def test_what_no_certificate_covers_comes_with_the_command_that_trains_it() -> None:
    how = Invocation(new="quick.json", suite="suites")
    comparison = compare(OLD, UNLIKE, invocation=how)
    text = verdict_text(comparison)
    assert (
        "training cannot be compared: trained, another graph -> not trained, same computation as "
        "0001_peft-0.18.1"
    ) in " ".join(text.split())
    assert "without `--regress-quick`:\n    pytest suites --regress-save quick.json" in text
    assert "accept" not in text
    assert "--regress-quick" not in verdict_markdown(comparison)
    assert "pytest suites -m" in verdict_markdown(comparison)
    assert comparison.exit_code == 3


@pytest.mark.parametrize("new", [None, "quick.json"])
def test_new_numbers_of_a_quick_run_are_measured_again_before_they_are_accepted(
    new: str | None,
) -> None:
    costlier = QUICK.cases[LORA]
    metrics = costlier.metrics | {"peak_bytes": trained(LORA).metrics["peak_bytes_b32"]}
    run = make_run(msgspec.structs.replace(costlier, metrics=metrics), OLD[1])
    comparison = compare(OLD, run, invocation=Invocation(new=new))
    again = f"run again without `--regress-quick` and with `--regress-save {new or 'run.json'}`"
    assert f"if the new numbers are right, {again}, then:" in " ".join(
        verdict_text(comparison).split()
    )
    assert again in " ".join(case_text(comparison.verdict_of(LORA), comparison).split())
    assert "and a run without `--regress-quick` has them too" in verdict_markdown(comparison)
    trained_too = judge(
        {LORA: observe(OLD[0])},
        {LORA: observe(msgspec.structs.replace(OLD[0], metrics=OLD[0].metrics | metrics))},
    )
    assert "--regress-quick" not in verdict_text(trained_too)


def test_no_table_has_an_accuracy_of_it() -> None:
    table = results_table(make_run(certified(trained()), trained(FULL)))
    rows = {line.split()[0]: line for line in table.splitlines()[1:] if line.startswith("shift")}
    assert "same computation" in rows[LORA]
    assert "91.0 %" not in rows[LORA]
    assert "91.0 %" in rows[FULL]
    text = as_text(overview(make_run(certified(trained())), sources="quick.json"))
    assert "same computation" in text
    assert "best accuracy" not in text


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_no_export_has_an_accuracy_of_it(name: str) -> None:
    texts = "".join(texts_of(EXPORTERS[name], make_run(certified(trained()))).values())
    notes = "".join(left_out(EXPORTERS[name], make_run(certified(trained()))))
    assert not any(value in texts for value in ("0.91", "accuracy", "step"))
    assert "same_computation_as" in texts or f"not trained and without accuracy: {LORA}" in notes


def test_a_row_of_csv_names_the_run_that_is_repeated() -> None:
    rows = [*csv.DictReader(io.StringIO(texts_of(EXPORTERS["csv"], QUICK)[""]))]
    named = {row["case"]: row["same_computation_as"] for row in rows}
    assert named == {LORA: "0001_peft-0.18.1", FULL: ""}


def entry(number: int, run: Run, role: str = "baseline") -> Entry:
    date = f"2026-01-0{number}T00:00:00+00:00"
    accepted = Acceptance(reason="why", date=date, role=role)
    run = msgspec.structs.replace(run, accepted=accepted)
    return Entry(name=f"{number:04d}", date=date, role=role, run=run)


def test_a_history_goes_on_across_it() -> None:
    entries = [
        entry(1, make_run(trained())),
        entry(2, make_run(certified(trained())), "history"),
        entry(3, make_run(trained())),
    ]
    for name in ("accuracy", "first_losses"):
        found = select_histories(entries, metric=name)
        (line,) = found[0].lines
        assert line.is_still
        assert [point.same_as for point in line.points] == [None, "0001_peft-0.18.1", None]
        assert line.points[1].value is None
        assert "same computation" in as_text(history_document(found, every_point=True))
        assert "same computation" not in as_text(history_document(found))
        (encoded,) = encode_history(found, every_point=True)["cases"][0]["lines"]
        assert encoded["points"][1]["same_computation_as"] == "0001_peft-0.18.1"
        assert "same_computation_as" not in encoded["points"][0]
    moved = trained(metrics={"accuracy": [0.5] * 3, "first_losses": [[2.3] * 4] * 3})
    (history,) = select_histories([*entries[:2], entry(3, make_run(moved))], metric="accuracy")
    assert [point.differs for point in history.lines[0].points] == [False, False, True]
    assert all(point.is_comparable for point in history.lines[0].points)


def test_the_page_marks_it() -> None:
    entries = [entry(1, make_run(trained())), entry(2, make_run(certified(trained())))]
    data = json.loads(json.dumps(page_data(entries, lambda asked: asked.run)))
    (case,) = data["cases"]
    names = [metric["name"] for metric in data["metrics"]]
    now = {names[line["metric"]]: line["now"] for line in case["lines"]}
    assert case["same_computation_as"] == "0001_peft-0.18.1"
    assert {name: now[name] for name in ("accuracy", "loss", "first_losses", "step_seconds")} == (
        dict.fromkeys(("accuracy", "loss", "first_losses", "step_seconds"))
    )
    assert now["peak_bytes"] == 120_000_000
    facts = dict(zip(data["invariants"], case["invariants"], strict=True))
    assert facts == {
        "frozen_unchanged": "not trained",
        "trainable_changed": "not trained",
        "merge_equals_unmerged": True,
    }
    assert "same_computation_as" not in page_data(entries[:1], lambda one: one.run)["cases"][0]
