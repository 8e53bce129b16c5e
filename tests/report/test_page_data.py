"""What the page is given: every value of every entry, what changed, and where it comes from."""

import json
import math
from pathlib import Path

import pytest
from builders import FULL, GALORE, LORA, VALUES, make_metric, make_record
from hypothesis import strategies as st
from page_world import content_of, evidence_of
from page_world import make_entry as entry
from strategies import fuzz, runs

from peft_regress.baselines.history import Entry, read_entries
from peft_regress.gate.changes import value_of
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.metrics import METRICS, Metric
from peft_regress.project.budgets import Bound, Budget
from peft_regress.project.devices import load_devices
from peft_regress.report.document import as_text
from peft_regress.report.page.content import Content, line_of
from peft_regress.report.page.data import page_data
from peft_regress.report.page.sheets import sheet_modules
from peft_regress.runs.schema import Failure

BASELINES = Path(__file__).parents[2] / "baselines"
DATE = "2026-01-{:02d}T00:00:00+00:00"


def data_of(*entries):
    """Return the data as the page reads it: by way of JSON."""
    content = Content(entries=entries, devices=load_devices())
    return json.loads(json.dumps(page_data(content), allow_nan=False))


def value_at(held, index):
    """Read a value as docs/usage.md says."""
    found = None
    for at, value in zip(held["at"], held["values"], strict=True):
        if at <= index:
            found = value
    return found


@fuzz(st.lists(runs(), min_size=1, max_size=5), examples=200)
def test_every_value_of_every_entry_can_be_read_back(drawn):
    entries = [
        Entry(name=str(k), date=DATE.format(k + 1), role="run", run=run, path=Path(f"{k}.json"))
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


def test_a_change_says_whether_it_is_worse_by_its_direction():
    moved = {
        "forward_flops": (1, "better"),
        "peak_bytes": (10**9, "worse"),
        "trainable_params": (5, "worse"),
        "accuracy": ([0.1] * 3, "worse"),
    }
    after = {**VALUES, **{name: value for name, (value, _) in moved.items()}}
    data = data_of(entry(0, make_record()), entry(1, make_record(metrics=after)))
    names = [metric["name"] for metric in data["metrics"]]
    marks = data["cases"][0]["marks"]
    found = {names[mark["metric"]]: (mark["entry"], mark["what"]) for mark in marks}
    assert found == {name: (1, what) for name, (_, what) in moved.items()}


def test_what_is_defined_anew_breaks_its_metrics_and_another_entry_is_passed_over():
    entries = [
        entry(0, make_record(metrics={"forward_flops": 1}), make_record(FULL)),
        entry(1, make_record(FULL)),
        entry(2, make_record(metrics={"forward_flops": 2})),
        entry(3, make_record(metrics={"forward_flops": 3}, definition="sha256:other")),
    ]
    marks = data_of(*entries)["cases"][1]["marks"]
    found = [(mark["before"], mark["entry"], mark["what"], mark["text"]) for mark in marks]
    assert found == [(0, 2, "worse", "+100 %"), (None, 3, "break", "")]


def test_present_numbers_are_of_the_last_run_or_baseline_or_entry():
    lora, full, galore = map(make_record, (LORA, FULL, GALORE))
    old_release = entry(1, lora, full, galore, role="history")
    data = data_of(entry(0, lora, full), old_release, entry(2, full, role="run"))
    assert {case["id"]: case["current"] for case in data["cases"]} == {LORA: 0, FULL: 2, GALORE: 1}


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
    shown = data["metrics"][-1]
    assert (shown["name"], shown["unit"], shown["direction"]) == ("<b>", "ratio", "higher")


def test_no_entries_make_a_page_without_cases():
    assert data_of()["cases"] == []


def test_errors_of_the_past_and_texts_without_end_take_no_room():
    failures = [Failure(type="RuntimeError", message=f"{k}: {'x' * 10_000}") for k in range(3)]
    failed = [make_record(status="error", error=failure) for failure in failures]
    entries = [entry(number, record) for number, record in enumerate(failed)]
    entries.append(entry(3, failed[1], reason="y" * 10_000))
    data = data_of(*entries)
    status = data["cases"][0]["status"]
    assert status["at"] == [0, 3]
    assert status["values"][0] == "error"
    assert status["values"][1].startswith("error (RuntimeError: 1: xxx")
    assert len(status["values"][1]) == len(data["entries"][3]["reason"]) == 2000


def test_seconds_are_those_of_the_fastest_seed():
    data = data_of(entry(0, make_record(metrics={"step_seconds": [0.3, 0.2, 0.4]})))
    assert data["cases"][0]["lines"][0]["values"] == [0.2]
    assert make_metric("step_seconds", [0.3, 0.2, 0.4]).value > 0.2


def test_a_share_on_the_page_is_of_the_newest_record_of_the_other_case():
    lora = make_record(LORA, budget=Budget(of=FULL, peak_of=0.8, ship_of=0.8))
    fulls = [make_record(FULL, {"peak_bytes": value}) for value in (60_000_000, 240_000_000)]
    found = content_of(entry(0, fulls[0], lora), entry(1, fulls[1])).budgets(LORA)
    assert [(use.name, use.value, use.is_over) for _, use in found] == [
        (f"peak_of {FULL}", 0.5, False),
        (f"ship_of {FULL}", None, False),
    ]


def test_a_score_of_its_author_changes_by_its_difference_as_for_the_gate():
    bounds = {"score": Bound(bound=0.5, reason="noise")}
    old, new = (
        make_record(LORA, {**VALUES, "score": [value]}, bounds=bounds) for value in (-4.0, -5.0)
    )
    (mark,) = data_of(entry(0, old), entry(1, new))["cases"][0]["marks"]
    assert (mark["entry"], mark["what"], mark["change"]) == (1, "worse", -1.0)


def test_sheets_have_the_modules_behind_stored_numbers():
    chosen = ("0004", "0007", "0008")
    entries = [one for one in read_entries(BASELINES, []) if one.name.startswith(chosen)]
    content = Content(entries=entries)
    assert len(content.cases) == 96
    text = as_text(sheet_modules(content.now["shift/dora-r4/resnet18"]))
    flat = " ".join(text.split())
    assert "forward_flops: 3.854 GFLOP" in flat
    assert "lora_magnitude_vector.default" in flat


def test_the_newest_verdict_gives_each_case_its_own_where_its_numbers_are_shown():
    old, worse = make_record(LORA), make_record(LORA, {**VALUES, "forward_flops": 10**12})
    data = json.loads(json.dumps(page_data(content_of(entry(0, old), entry(1, worse)))))
    assert data["verdict"]["counts"] == {"regressed": 1}
    assert (data["verdict"]["new"], data["verdict"]["style"]) == (1, "bad")
    assert data["cases"][0]["verdict"] == "regressed"
    history = entry(1, worse, role="history")
    # The history is not what the page shows as present.
    assert page_data(content_of(entry(0, old), history))["cases"][0]["verdict"] is None


OTHER_METHOD = "shift/galore-r4/resnet18"
OTHER_NETWORK = "shift/lora-r4/mobilenet_v2"
OWN = {"profiled_on": "fake tensors", "batch": 16}
STUDIED = {"lora-r4": (0.90, 0.94), "full": (0.95, 0.97)}
ACCURACY = make_record().metrics["accuracy"].value
MEASURED = ("accuracy after 22 steps", ACCURACY)
OF_STUDY = ("accuracy of the study", pytest.approx(0.92))


@pytest.mark.parametrize(
    ("study", "records", "gains"),
    [
        ({}, [make_record(LORA)], [OF_STUDY]),
        ({}, [make_record(LORA), make_record(OTHER_METHOD)], [OF_STUDY, None]),
        ({}, [make_record(LORA), make_record(FULL, status="error")], [OF_STUDY, None]),
        ({}, [make_record(LORA), make_record(OTHER_NETWORK)], [OF_STUDY, MEASURED]),
        ({}, [make_record(OTHER_METHOD)], [MEASURED]),
        ({"task": "unseen"}, [make_record(LORA)], [MEASURED]),
        ({"curve": {100: 0.8, 200: 0.9}}, [make_record(LORA)], [MEASURED]),
        (
            {},
            [make_record(LORA, settings={"steps": "30\x07"}, **OWN)],
            [("accuracy after 30 steps", ACCURACY)],
        ),
        ({}, [make_record(LORA), make_record(FULL, **OWN)], [OF_STUDY, None]),
        ({}, [make_record(LORA, **OWN)], [("accuracy after its own steps", ACCURACY)]),
    ],
    ids=[
        "studied", "not studied", "failed", "another network", "no method of it", "another task",
        "not learned", "own", "own beside it", "own of unknown steps",
    ],
)  # fmt: skip
def test_methods_are_compared_by_a_study_that_has_learned_or_else_by_what_was_measured(
    study, records, gains
):
    content = content_of(entry(0, *records), evidence=evidence_of(STUDIED, **study))
    found = {case["id"]: case["gain"] for case in page_data(content)["cases"]}
    shown = [found[record.case.id] for record in records]
    assert [one and (one["words"], one["now"]) for one in shown] == gains


def test_the_lines_of_a_case_are_what_was_measured_beside_a_study_too():
    content = content_of(entry(0, make_record(LORA)), evidence=evidence_of(STUDIED))
    data = page_data(content)
    (case,) = data["cases"]
    assert case["gain"]["seeds"] == [0.90, 0.94]
    lines = {data["metrics"][line["metric"]]["name"]: line["now"] for line in case["lines"]}
    assert lines["accuracy"] == ACCURACY


def facts(name, value, **fields):
    line = line_of(name, make_record(LORA, {name: value}, **fields), METRICS[name])
    return {fact: line[fact] for fact in ("bound", "seeds") if fact in line}


def test_the_bound_is_that_of_the_gate_and_seeds_are_its_lowest_and_highest():
    assert facts("accuracy", [0.4, 0.6, 0.5]) == {
        "bound": DEFAULT_POLICY.accuracy_margin,
        "seeds": [0.4, 0.6],
    }
    assert facts("peak_bytes", 5) == {"bound": DEFAULT_POLICY.bytes_bound}
    own = Bound(bound=0.2, reason="noisy")
    assert facts("peak_bytes", 5, bounds={"peak_bytes": own}) == {"bound": 0.2}


@pytest.mark.parametrize("name", ["forward_flops", "paper_forward_flops", "relative_step_seconds"])
def test_what_may_not_change_and_what_nobody_judges_has_no_bound(name):
    assert facts(name, 5) == {}


def test_a_score_has_seeds_and_no_bound_but_its_authors():
    assert facts("score", [4.0, 6.0]) == {"seeds": [4.0, 6.0]}
