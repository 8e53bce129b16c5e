"""What the page is given: every value of every entry, what changed, and where it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from builders import (
    FULL,
    GALORE,
    LORA,
    VALUES,
    make_metric,
    make_record,
    make_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import runs

from peft_regress.baselines.history import read_entries
from peft_regress.baselines.lines import Entry, make_line
from peft_regress.devices import load_devices
from peft_regress.gate.changes import value_of
from peft_regress.metrics import Metric
from peft_regress.report.page.case_lines import Held, find_transitions, thin
from peft_regress.report.page.data import _share, page_data
from peft_regress.runs.run_file import read_run
from peft_regress.runs.schema import Acceptance, Failure, Limits, OwnBound

BASELINES = Path(__file__).parents[2] / "baselines"
PEFT = {"peft": "0.18.1", "python": "3.11.7", "torch": "2.13.0"}
DATE = "2026-01-{:02d}T00:00:00+00:00"


def entry(number: int, *records: Any, role: Any = "baseline", **fields: Any) -> Entry:
    date = DATE.format(number + 1)
    retired = fields.pop("retired", [])
    accepted = None if role == "run" else Acceptance(
        reason="why", date=date, role=role, retired=retired, entry="Linux/0001_x")  # fmt: skip
    run = make_run(*records, accepted=accepted, **fields)
    return Entry(name=f"{number:04d}_peft", date=date, role=role, run=run)


def data_of(*entries: Entry) -> dict[str, Any]:
    """Return the data as the page reads it: by way of JSON."""
    data = page_data(entries, lambda asked: asked.run)
    return json.loads(json.dumps(data, allow_nan=False))


def value_at(held: dict[str, Any], index: int) -> Any:
    """Read a value as docs/usage.md says."""
    found = None
    for at, value in zip(held["at"], held["values"], strict=True):
        if at <= index:
            found = value
    return found


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(runs(), min_size=1, max_size=5))
def test_every_value_of_every_entry_can_be_read_back(drawn):
    entries = [
        Entry(name=str(k), date=DATE.format(k + 1), role="run", run=run)
        for k, run in enumerate(drawn)
    ]
    data = data_of(*entries)
    names = [metric["name"] for metric in data["metrics"]]
    retired = {name for run in drawn if run.accepted for name in run.accepted.retired}
    assert {case["id"] for case in data["cases"]} >= {
        n for run in drawn for n in run.cases
    } - retired
    for case in data["cases"]:
        lines = {names[line["metric"]]: line for line in case["lines"]}
        begins = 0
        for index, run in enumerate(drawn):
            if run.accepted and case["id"] in run.accepted.retired:
                begins = index
        for index, run in enumerate(drawn):
            record = run.cases.get(case["id"]) if index >= begins else None
            status = value_at(case["status"], index)
            if record is None:
                assert status is None
            else:
                is_present = index == case["current"]
                assert status == (record.status_text if is_present else record.status)
            for name in names:
                metric = None if record is None else record.metrics.get(name)
                found = value_at(lines[name], index) if name in lines else None
                if metric is None:
                    assert found is None
                elif isinstance(metric.value, int) and metric.kind != "seconds":
                    assert found == metric.value
                else:
                    assert math.isclose(found, value_of(metric), rel_tol=1e-6)
                if index == case["current"] and name in lines:
                    now = lines[name]["now"]
                    assert now == (None if metric is None else value_of(metric))


SERIES = st.lists(
    st.sampled_from([None, 0.5, 0.501, 0.6, 0.9, "absent", "other"]), min_size=1, max_size=14
)


@pytest.mark.parametrize("name", ["peak_bytes", "accuracy", "first_losses", "step_seconds"])
@settings(deadline=None, max_examples=60, derandomize=True)
@given(drawn=SERIES)
def test_transitions_are_where_the_history_marks_a_change_or_a_break(name, drawn):
    """Against `make_line`, which goes from point to point."""
    pairs = []
    for number, item in enumerate(drawn):
        metrics = dict(VALUES)
        value = 0.5 if item in (None, "absent", "other") else item
        sample: Any = [value, value, value]
        if name == "first_losses":
            sample = [[value, value]] * 3
        metrics[name] = round(1e6 * value) if name == "peak_bytes" else sample
        if item == "absent":
            del metrics[name]
        definition = "sha256:other" if item == "other" else "sha256:one"
        record = make_record(metrics=metrics, definition=definition)
        pairs.append((entry(number, record), record))
    points = make_line(pairs, name).points if any(name in r.metrics for _, r in pairs) else ()
    breaks = {k for k, point in enumerate(points) if not point.is_comparable}
    marked = {k for k, point in enumerate(points) if point.is_change_point} - breaks
    found = find_transitions(pairs, name)
    assert {one.position for one in found if one.what == "break"} == breaks
    changes = {one.position for one in found if one.what != "break"}
    assert marked <= changes
    # What is noisy is marked besides where one step left the gate's bound.
    beyond = {
        k
        for k, point in enumerate(points)
        if k not in breaks and point.change is not None and point.change.relative is not None
        and abs(point.change.relative) > 0.05
    }  # fmt: skip
    assert changes <= marked | beyond


def test_a_change_says_whether_it_is_worse_by_its_direction():
    before = make_record(metrics=VALUES)
    after = make_record(
        metrics={**VALUES, "forward_flops": 1, "peak_bytes": 10**9, "trainable_params": 5,
                 "accuracy": [0.1, 0.1, 0.1]}
    )  # fmt: skip
    data = data_of(entry(0, before), entry(1, after))
    (case,) = data["cases"]
    names = [data["metrics"][line["metric"]]["name"] for line in case["lines"]]
    found = {names[line]: (at, what) for line, at, what, *_ in case["marks"]["date"]}
    assert found == {
        "forward_flops": (1, "better"),
        "peak_bytes": (1, "worse"),
        "trainable_params": (1, "moved"),
        "accuracy": (1, "worse"),
    }


def test_operators_of_another_torch_are_neither_worse_nor_better():
    old, new = (make_record(metrics={**VALUES, "aten_ops": ops}) for ops in (900, 901))
    first = entry(0, old, environment=PEFT)
    for torch, what in (("2.13.0", "worse"), ("2.14.0", "moved")):
        data = data_of(first, entry(1, new, environment={**PEFT, "torch": torch}))
        assert [mark[2] for mark in data["cases"][0]["marks"]["date"]] == [what]


def test_entries_are_ordered_by_the_releases_of_each_package_that_varies():
    peft = ["0.21.2", "0.9.0", "0.10.1"]
    entries = [
        entry(k, make_record(), environment={**PEFT, "peft": one}) for k, one in enumerate(peft)
    ]
    assert data_of(*entries)["orders"] == [
        {"by": "peft", "entries": [1, 2, 0]},
        {"by": "date", "entries": [0, 1, 2]},
    ]
    assert [order["by"] for order in data_of(entries[0])["orders"]] == ["date"]


def test_environments_are_differences_from_the_first():
    environments = [PEFT, {**PEFT, "peft": "0.19.0"}, PEFT, {"peft": "0.18.1", "new": "1"}]
    data = data_of(*(entry(k, make_record(), environment=e) for k, e in enumerate(environments)))
    told = data["environments"]
    for found, environment in zip(data["entries"], environments, strict=True):
        merged = told[0] if found["environment"] == 0 else told[0] | told[found["environment"]]
        assert {name: v for name, v in merged.items() if v is not None} == environment


def test_present_numbers_are_of_the_last_run_or_baseline_or_entry():
    baseline = entry(0, make_record(LORA), make_record(FULL))
    old_release = entry(
        1, make_record(LORA), make_record(FULL), make_record(GALORE), role="history"
    )
    run = entry(2, make_record(FULL), role="run")
    found = {case["id"]: case["current"] for case in data_of(baseline, old_release, run)["cases"]}
    assert found == {LORA: 0, FULL: 2, GALORE: 1}


def test_a_retired_case_is_on_no_page_until_an_entry_holds_it_again():
    first = entry(0, make_record(LORA), make_record(FULL))
    second = entry(1, make_record(FULL), retired=[LORA])
    assert [case["id"] for case in data_of(first, second)["cases"]] == [FULL]
    third = entry(2, make_record(LORA))
    (full, lora) = data_of(first, second, third)["cases"]
    assert (full["id"], lora["id"]) == (FULL, LORA)
    assert lora["status"] == {"at": [2], "values": ["ok"]}


def test_an_unknown_metric_is_described_by_its_newest_record():
    odd = Metric(value=3, unit="ratio", direction="higher", kind="info")
    data = data_of(entry(0, make_record(metrics={**VALUES, "<b>": odd})))
    assert data["metrics"][-1] == {
        "name": "<b>", "unit": "ratio", "direction": "higher", "kind": "info",
            "about": "",
    }  # fmt: skip


def test_no_entries_make_a_page_without_cases():
    assert data_of()["cases"] == []
    assert data_of(entry(0, environment={}))["environments"] == [{}]


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(16, 60), st.sets(st.integers(0, 399), max_size=10))
def test_a_thinned_line_keeps_its_ends_what_changed_and_what_is_absent(count, most, keep):
    values = [None if k % 97 == 5 else k for k in range(count)]
    found = thin(Held(list(range(count)), values), keep=keep, most=most)
    assert {0, count - 1} <= set(found.at)
    assert all(found.at_entry(k) == values[min(k, count - 1)] for k in keep)
    assert {k for k in range(count) if values[k] is None} <= set(found.at)
    assert all(values[at] == value for at, value in zip(*found, strict=True))
    assert len(found.at) <= min(count, most + len(keep) + count // 97 + 1)
    assert found.at == sorted(found.at)


def test_a_case_says_where_an_invariant_is_false():
    notes = {"merge_equals_unmerged": "head: off by 0.3"}
    false = make_record(invariants={"merge_equals_unmerged": False}, invariant_notes=notes)
    data = data_of(entry(0, false))
    assert data["cases"][0]["notes"] == notes
    assert "notes" not in data_of(entry(0, make_record()))["cases"][0]


def test_errors_of_the_past_and_texts_without_end_take_no_room():
    failures = [Failure(type="RuntimeError", message=f"{k}: {'x' * 10_000}") for k in range(3)]
    entries = [
        entry(k, make_record(status="error", error=failure)) for k, failure in enumerate(failures)
    ]
    accepted = Acceptance(
        reason="y" * 10_000, date=DATE.format(9), role="baseline", entry="Linux/0001_x"
    )
    run = make_run(make_record(status="error", error=failures[1]), accepted=accepted)
    entries.append(Entry(name="last", date=accepted.date, role="baseline", run=run))
    data = data_of(*entries)
    status = data["cases"][0]["status"]
    assert status["at"] == [0, 3]
    assert status["values"][0] == "error"
    assert status["values"][1].startswith("error (RuntimeError: 1: xxx")
    assert len(status["values"][1]) == len(data["entries"][3]["reason"]) == 2000


def test_lines_are_thinned_if_together_they_are_too_long(monkeypatch):
    monkeypatch.setattr("peft_regress.report.page.data._MOST_VALUES", 300)
    monkeypatch.setattr("peft_regress.report.page.data._MOST_MARKS", 40)
    entries = [
        entry(k, make_record(metrics={"peak_bytes": 100, "forward_flops": 100 + k % 7}))
        for k in range(28)
    ] * 20
    data = data_of(*entries)
    case = data["cases"][0]
    moving, still = (line["values"] for line in case["lines"])
    assert data["thinned"] == {"entries": 560, "points": 299, "marks": 40}
    assert still == [100]
    assert 299 <= len(moving) <= 299 + 41
    # The newest changes stay.
    assert [mark[1] for mark in case["marks"]["date"]] == list(range(520, 560))
    assert data_of(*entries[:28])["thinned"] is None


def test_a_thinned_line_has_the_present_and_what_each_change_came_from(monkeypatch):
    monkeypatch.setattr("peft_regress.report.page.data._MOST_VALUES", 20)
    monkeypatch.setattr("peft_regress.report.page.data._MOST_MARKS", 3)
    # Each value holds for two entries, and entries of a kind that says little follow the present.
    values = [0.5 + k // 2 / 1000 for k in range(300)]
    entries = [
        entry(k % 28, make_record(metrics={"loss": value})) for k, value in enumerate(values)
    ]
    entries += [
        entry(27, make_record(metrics={"loss": value}), role="history") for value in (0.1, 0.2)
    ]
    data = data_of(*entries)
    case = data["cases"][0]
    [line] = case["lines"]
    assert case["current"] == 299
    assert line["thinned"]
    assert len(line["at"]) < 40
    assert line["now"] == values[299]
    for told in (
        299,
        298,
        *(index for mark in case["marks"]["date"] for index in (mark[1], mark[4])),
    ):
        exact = entries[told].run.cases[LORA].metrics["loss"].value
        assert value_at(line, told) == pytest.approx(exact, rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 300), st.integers(1, 5))
def test_a_share_fills_the_room_and_no_more(lengths, room, fewest):
    share = _share(lengths, room=room, fewest=fewest)
    if share is None:
        assert sum(lengths) <= room
    else:
        assert sum(lengths) > room
        taken = sum(min(length, share) for length in lengths)
        assert taken <= max(room, fewest * len(lengths))
        more = sum(min(length, share + 1) for length in lengths)
        assert more > room or share + 1 > max(lengths)


def test_whole_runs_are_read_once_and_only_of_a_few_entries():
    entries = [
        entry(k, make_record(metrics={**VALUES, "forward_flops": 10**9 + k})) for k in range(28)
    ]
    asked = []

    def whole(one: Entry) -> Any:
        asked.append(one.name)
        return one.run

    page_data(entries, whole)
    assert len(asked) == len(set(asked)) == 10
    assert asked[0] == entries[-1].name


def test_stored_numbers_and_changes_have_the_modules_that_they_come_from():
    chosen = ("0004", "0007", "0008")
    entries = [one for one in read_entries(BASELINES, []) if one.name.startswith(chosen)]
    data = page_data(entries, lambda asked: read_run(asked.path).run)
    names = [metric["name"] for metric in data["metrics"]]
    assert len(data["cases"]) == 96
    explained = 0
    for case in data["cases"]:
        record = entries[case["current"]].run.cases[case["id"]]
        for split in case["attribution"]:
            total = sum(row[2] for row in split["rows"]) + split["rest"]
            assert total == record.metrics[names[split["metric"]]].value
            assert split["rest"] >= 0
            assert (split["rest"] == 0) == (split["rest_rows"] == 0)
            explained += 1
    assert explained > 500
    dora = next(case for case in data["cases"] if case["id"] == "shift/dora-r4/resnet18")
    moved = {names[one["metric"]]: one for one in dora["transitions"]}
    found = moved["forward_flops"]
    assert (found["old"], found["new"]) == (7_480_972_800, 3_853_850_112)
    assert found["rows"][0] == [
        "conv1.lora_magnitude_vector.default", "aten.convolution", 236_027_904, 0
    ]  # fmt: skip
    peft = [entries[found[side]].run.environment["peft"] for side in ("from", "to")]
    assert peft == ["0.14.0", "0.15.2"]


def test_seconds_are_those_of_the_fastest_seed():
    data = data_of(entry(0, make_record(metrics={"step_seconds": [0.3, 0.2, 0.4]})))
    assert data["cases"][0]["lines"][0]["values"] == [0.2]
    assert make_metric("step_seconds", [0.3, 0.2, 0.4]).value > 0.2


def test_the_page_has_the_devices_of_the_table_and_the_budgets_of_the_present_records():
    limits = Limits(peak=60_000_000, score=0.5)
    old = make_record(LORA, budget=Limits(peak=1))
    data = data_of(entry(0, old), entry(1, make_record(LORA, budget=limits)))
    assert [device["name"] for device in data["devices"]] == [one.name for one in load_devices()]
    peak, score = data["cases"][0]["budgets"]
    assert (peak["budget"], peak["limit"], peak["over"], peak["used"], peak["unit"]) == (
        "peak", 60_000_000, True, 2.0, "byte",
    )  # fmt: skip
    assert (score["budget"], score["over"], score["unit"]) == ("score", False, "fraction")


def test_a_share_on_the_page_is_of_the_newest_record_of_the_other_case():
    lora = make_record(LORA, budget=Limits(of=FULL, peak_of=0.8, ship_of=0.8))
    fulls = [make_record(FULL, {"peak_bytes": value}) for value in (60_000_000, 240_000_000)]
    data = data_of(entry(0, fulls[0], lora), entry(1, fulls[1]))
    shares = {case["id"]: case["budgets"] for case in data["cases"]}[LORA]
    assert [(one["budget"], one["value"], one["over"]) for one in shares] == [
        (f"peak_of {FULL}", 0.5, False),
        (f"ship_of {FULL}", None, None),
    ]


def test_an_own_case_says_its_batch_and_that_it_has_a_score() -> None:
    own = make_record(FULL, {"score": [0.5]}, profiled_on="fake tensors", batch=16)
    old = make_record("a/full/net", profiled_on="fake tensors")
    first, second, third = data_of(entry(1, make_record(LORA), own, old))["cases"]
    assert (first["id"], first["batch"], "has_score" in first) == ("a/full/net", None, False)
    assert (second["id"], second["batch"], second["has_score"]) == (FULL, 16, True)
    assert (third["id"], "batch" in third, "has_score" in third) == (LORA, False, False)


def test_a_score_of_its_author_changes_in_proportion_on_the_page():
    bounds = {"score": OwnBound(bound=0.5, reason="noise")}
    old, new = (
        make_record(LORA, {**VALUES, "score": [value]}, bounds=bounds) for value in (-4.0, -5.0)
    )
    data = data_of(entry(0, old), entry(1, new))
    ((_, at, what, change, _),) = data["cases"][0]["marks"]["date"]
    assert (at, what, change) == (1, "worse", -0.25)
