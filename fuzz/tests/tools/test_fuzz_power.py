"""The injected faults that the fuzzer is tried with."""

from __future__ import annotations

import msgspec
import power
import pytest
from fault_catalogue import FAULTS
from power import (
    BEYOND,
    BY_CHANCE,
    Tried,
    chosen_faults,
    complaints,
    line,
    method_of,
    read_results,
    table,
)

FOUND = Tried(fault="lora-b-not-zero", state="found", seconds=1.5, check="identity", message="off")
MISSED = Tried(fault="lora-a-gaussian", state="missed", seconds=60.0)


def test_faults_of_this_project_are_left_out():
    faults = chosen_faults()
    assert len(faults) > 30
    assert "head-not-saved" not in faults
    assert all(at.startswith("peft") for name in faults for at in FAULTS[name].at)
    assert BY_CHANCE <= {*BEYOND} <= {*faults}


def test_the_method_of_a_fault_is_that_of_its_case():
    methods = {
        "rslora-scaling-left-out": "lora",
        "dora-magnitude-frozen": "dora",
        "adalora-budget-never-falls": "adalora",
        "adapter-left-in-half-precision": "lora",
        "loha-products-added": "loha",
    }
    assert {fault: method_of(fault) for fault in methods} == methods


def test_only_what_is_expected_is_no_complaint():
    by_chance = [
        Tried(fault=fault, state=state, seconds=30.0)
        for fault in BY_CHANCE
        for state in ("found", "missed")
    ]
    assert complaints([FOUND, MISSED, *by_chance]) == []
    swapped = [
        msgspec.structs.replace(FOUND, state="missed"),
        msgspec.structs.replace(MISSED, state="found"),
        Tried(fault="lora-a-zero", state="broken", seconds=0.0),
    ]
    assert complaints(swapped) == [
        "lora-a-zero is broken",
        "lora-b-not-zero is missed, which is not expected",
        "lora-a-gaussian is found, which is not expected",
    ]


def test_the_table_says_how_many_were_found_and_why_the_rest_was_not():
    text = table([MISSED, FOUND])
    assert text.startswith("Found: 1 of 1 faults, half of them within 1.5 s of search. 1 others ")
    assert f"| {BEYOND['lora-a-gaussian']} |" in text
    assert "lora-b-not-zero" not in text
    missed = table([MISSED, msgspec.structs.replace(FOUND, state="missed")])
    assert missed.startswith("Found: 0 of 1 faults")
    assert "instead of zero. | **missed** |" in missed
    assert line(FOUND) == "found      1.5 s  lora-b-not-zero: identity: off"


def test_the_command_keeps_what_it_tried_and_fails_on_a_surprise(monkeypatch, tmp_path, capsys):
    def all_missed(faults, **_):
        return [Tried(fault=one, state="missed", seconds=1.0) for one in faults]

    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(power.PAGE.read_text())
    monkeypatch.setattr(power, "PAGE", page)
    monkeypatch.setattr(power, "try_all", all_missed)
    assert power.main(["--only", "dora-*", "--results", str(results)]) == 1
    assert "dora-magnitude-frozen is missed, which is not expected" in capsys.readouterr().out
    assert power.main(["--only", "lora-a-gaussian", "--results", str(results)]) == 0
    kept = [one.fault for one in read_results(results)]
    assert "lora-a-gaussian" in kept
    assert "dora-norm-not-detached" in kept
    assert power.main(["--write", "--results", str(results)]) == 0
    assert power.main(["--check", "--results", str(results)]) == 0
    assert "Found: 0 of " in page.read_text()


def test_list_tries_nothing(capsys):
    assert power.main(["--list"]) == 0
    assert "dora-magnitude-frozen (dora): The magnitude does not train." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no fault of peft matches 'nothing'"):
        power.chosen_faults("nothing")


@pytest.mark.slow
def test_a_fault_is_found_and_without_a_fault_nothing_is(monkeypatch):
    found = power.tried("lora-b-not-zero", seconds=60, seed=0)
    assert (found.state, found.check) == ("found", "identity")
    fault = FAULTS["lora-b-not-zero"]
    harmless = {**FAULTS, fault.name: type(fault)(**{**vars(fault), "replacement": _unchanged})}
    monkeypatch.setattr(power, "FAULTS", harmless)
    assert power.tried("lora-b-not-zero", seconds=5, seed=0).state == "missed"


def _unchanged(original, *args, **keywords):
    return original(*args, **keywords)
