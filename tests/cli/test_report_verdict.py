"""`peft-regress report` judges the newest entry or run as `compare` does."""

import json

import msgspec
import pytest
from builders import FULL, LORA, UNSEEN_LORA, VALUES, make_record, make_run, write_entry, write_run

from peft_regress.project.budgets import Budget
from peft_regress.runs.schema import Selection

IDS = (LORA, FULL)
SLOWER = {**VALUES, "forward_flops": 2 * VALUES["forward_flops"]}


@pytest.fixture
def verdict(command, tmp_path, monkeypatch):
    """Call `report --format json`; return the verdict, its outcome, and the verdicts by case."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code, out, err = command("report", "--format", "json", *arguments)
        assert (code, err) == (0, "")
        data = json.loads(out)
        found = data["verdict"]
        cases = {case["id"]: case.get("verdict") for case in data["cases"]}
        return found, found["outcome"], cases

    return call


def run_of(tmp_path, *records, **fields):
    return write_run(tmp_path / "run.json", make_run(*records, **fields))


NARROWED = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[FULL])


@pytest.mark.parametrize(
    ("records", "fields", "code", "words"),
    [
        ([make_record(name) for name in IDS], {}, 0, "no regression"),
        ([make_record(LORA, SLOWER), make_record(FULL)], {}, 1, "REGRESSED"),
        ([make_record(LORA)], {}, 3, "INCOMPLETE"),
        ([make_record(LORA)], {"selection": NARROWED}, 3, "INCOMPLETE"),
        ([make_record(LORA, budget=Budget(peak=1)), make_record(FULL)], {}, 1, "OVER BUDGET"),
    ],
    ids=["unchanged", "worse", "missing", "narrowed", "over budget"],
)
def test_a_run_gets_the_verdict_of_compare(
    command, verdict, tmp_path, *, records, fields, code, words
):
    write_entry(tmp_path / "baselines", 1, *map(make_record, IDS))
    run_of(tmp_path, *records, **fields)
    found, outcome, _ = verdict("run.json")
    assert found["exit_code"] == code
    assert outcome.startswith(words)
    again, out, _ = command("compare", "baselines", "run.json", "--stored-only")
    assert (again, out.splitlines()[-1]) == (code, outcome)


def test_a_verdict_on_some_cases_is_that_of_compare_and_counts_the_others(
    command, verdict, tmp_path
):
    write_entry(tmp_path / "baselines", 1, *map(make_record, IDS))
    run_of(tmp_path, make_record(LORA), make_record(FULL, SLOWER))
    found, outcome, cases = verdict("run.json", "--cases", "*/lora-*")
    assert (found["exit_code"], found["counts"]) == (0, {"unchanged": 1})
    assert cases == {LORA: "unchanged"}
    words = ("compare", "baselines", "run.json", "--stored-only", "--cases", "*/lora-*")
    again, out, _ = command(*words)
    assert (again, out.splitlines()[-1]) == (found["exit_code"], outcome)
    assert outcome.endswith(" in */lora-*; not judged: 1 case")
    assert found["command"].endswith(" --cases '*/lora-*'")


@pytest.mark.parametrize("chosen", [(), ("--cases", "*/full/*")], ids=["all", "some"])
def test_a_run_that_holds_no_case_is_incomplete_though_the_newest_entry_is_good(
    verdict, tmp_path, chosen
):
    for number in (1, 2):
        write_entry(tmp_path / "baselines", number, *map(make_record, IDS))
    run = make_run(make_record(LORA))
    write_run(tmp_path / "run.json", run if chosen else msgspec.structs.replace(run, cases={}))
    found, outcome, cases = verdict("run.json", *chosen)
    assert (found["new"], found["exit_code"], found["style"]) == (2, 3, "open")
    assert outcome.startswith("INCOMPLETE")
    assert set(cases.values()) == {None}


def test_the_first_entry_with_its_cases_has_no_verdict(verdict, command, tmp_path, monkeypatch):
    storage = tmp_path / "baselines"
    monkeypatch.chdir(tmp_path)
    for number, case in enumerate((LORA, FULL), start=1):
        write_entry(storage, number, make_record(case))
        data = json.loads(command("report", "--format", "json")[1])
        assert data["verdict"] is None
        assert {case.get("verdict") for case in data["cases"]} == {None}
    write_entry(storage, 3, make_record(LORA), make_record(UNSEEN_LORA))
    found, _, _ = verdict()
    assert found["counts"]["new"] == 1


def test_a_case_may_be_retired_after_the_newest_entry_that_holds_one(verdict, tmp_path):
    storage = tmp_path / "baselines"
    write_entry(storage, 1, make_record(LORA), make_record(UNSEEN_LORA))
    write_entry(storage, 2, make_record(LORA), make_record(UNSEEN_LORA))
    write_entry(storage, 3, make_record(FULL), retired=[LORA])
    found, _, cases = verdict("--cases", "*/lora-*")
    assert found["new"] == 1
    assert LORA not in cases


def test_without_a_run_the_newest_entry_is_judged_by_what_was_accepted_before_it(verdict, tmp_path):
    storage = tmp_path / "baselines"
    write_entry(storage, 1, *map(make_record, IDS))
    write_entry(storage, 2, make_record(LORA, SLOWER), make_record(FULL))
    found, outcome, cases = verdict()
    assert (found["exit_code"], found["new"]) == (1, 1)
    assert outcome == "REGRESSED (1 regressed, 1 unchanged)"
    assert cases == {LORA: "regressed", FULL: "unchanged"}
    # The newest entry is the last that holds a case.
    write_entry(storage, 3, make_record(FULL))
    found, outcome, cases = verdict("--cases", LORA)
    assert (found["new"], cases) == (1, {LORA: "regressed"})
    assert outcome == f"REGRESSED (1 regressed) in {LORA}; not judged: 1 case"
    write_entry(storage, 4, make_record(LORA, SLOWER), make_record(FULL))
    found, outcome, _ = verdict()
    assert (found["exit_code"], outcome) == (0, "no regression (2 unchanged)")


def test_the_newest_entry_is_judged_by_drift_too_and_a_retired_case_is_not_missing(
    verdict, tmp_path
):
    root = tmp_path / "baselines"
    write_entry(root, 1, *map(make_record, IDS))
    for number, size in enumerate((120_000_000, 120_108_000, 120_216_000), start=2):
        record = make_record(LORA, {**VALUES, "peak_bytes": size})
        write_entry(root, number, record, retired=[FULL] if number == 2 else [])
    found, outcome, cases = verdict()
    assert (found["exit_code"], outcome) == (1, "REGRESSED (1 regressed)")
    assert cases == {LORA: "regressed"}


def test_an_entry_of_some_cases_leaves_the_others_to_older_entries(verdict, tmp_path):
    storage = tmp_path / "baselines"
    write_entry(storage, 1, *map(make_record, IDS))
    part = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[FULL])
    write_entry(storage, 2, make_record(LORA), selection=part)
    found, outcome, cases = verdict()
    assert outcome == "no regression in what was selected (1 unchanged)"
    assert found["exit_code"] == 3
    assert cases == {LORA: "unchanged", FULL: None}


def test_a_run_without_a_baseline_is_incomplete(verdict, tmp_path):
    run_of(tmp_path, make_record(LORA))
    found, outcome, cases = verdict("run.json")
    assert (found["exit_code"], cases) == (3, {LORA: "new"})
    assert outcome == "INCOMPLETE: not everything expected was compared (1 new)"
