"""The faults that try the gate: the catalogue, the injection, and their table."""

import functools
import re
import sys
import types
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import fault_runs
import faults
import msgspec
import pytest
from builders import LORA, VALUES, make_record
from fault_catalogue import AREAS, FAULTS, Fault
from fault_catalogue.injection import injected
from fault_catalogue.own_case import OWN_CASES
from fault_runs import Judge, Run, judged
from faults import line

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.schema import Curve, Failure


def make_fault(replacement=lambda original: original(), **more):
    stated = {"name": "wrong", "area": "LoRA", "wrong": "All of it.", "case": LORA, **more}
    return Fault(at=("library:right",), replacement=replacement, **stated)


def test_every_fault_has_a_name_a_sentence_an_area_and_a_case():
    assert len(FAULTS) >= 205
    assert {fault.area for fault in FAULTS.values()} == set(AREAS)
    known = {case.id for matrix in ("default", "extended") for case in matrix_cases(matrix)}
    assert {fault.case for fault in FAULTS.values()} <= {*known, *OWN_CASES}
    assert [one.name for one in FAULTS.values() if not re.fullmatch(r"[A-Z].+\.", one.wrong)] == []


def test_every_function_that_a_fault_replaces_exists():
    import_module("peft")
    for fault in FAULTS.values():
        with injected(fault) as injection:
            assert injection.calls.keys() == set(fault.at), fault.name


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("library")
    module.right = lambda number=0: 1 / number
    monkeypatch.setitem(sys.modules, "library", module)
    return module


def test_a_fault_that_nothing_calls_or_that_fails_itself_does_not_count(library):
    with injected(make_fault()) as injection:
        pass
    assert injection.complaint() == "never ran: nothing calls library:right"
    in_a_wrapper = patch.dict({})(lambda _original, number: number.moved)
    with injected(make_fault(in_a_wrapper)) as injection, pytest.raises(AttributeError):
        library.right(1)
    assert injection.complaint().startswith("the fault itself fails: ")


CURVE = Curve(losses=[2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7], scores={"loss": 0.3})
OTHER = Curve(losses=[*CURVE.losses[:6], 1.6], scores={"loss": 0.3})
COSTS = {name: value for name, value in VALUES.items() if name not in {"loss", "accuracy"}}
BROKEN = Failure(type="AttributeError", message="moved")


def trained(case=LORA, metrics=VALUES, *, curve=CURVE, held=True, **more):
    return make_record(case, metrics, curve=curve, invariants={"held": held}, **more)


def repeating(case=LORA, **costs):
    return trained(case, {**COSTS, **costs}, repeats="no fault")


def shown(record, *, stops=False):
    return line(judged(make_fault(stops=stops), Run(record=record), Judge([trained()])))


MOVED = {**VALUES, "peak_bytes": 240_000_000, "forward_flops": 3_638_000_001, "loss": [0.6] * 3}


@pytest.mark.parametrize(
    ("record", "stops", "said"),
    [
        (repeating(), False, "uncaught repeats wrong: nothing beyond its bound"),
        (repeating(forward_flops=1), False, "strict   repeats wrong: forward_flops"),
        (trained(metrics=MOVED, curve=OTHER, held=False), False,
         ("caught           wrong: curve from step 7 on, forward_flops, held false, "
          "peak_bytes 1,000x, loss 7.1x")),
        (make_record(status="error", error=BROKEN), False,
         "broken           wrong: stopped unexpectedly: error (AttributeError: moved)"),
        (make_record(status="error", error=BROKEN), True, "caught           wrong: status error"),
    ],
)  # fmt: skip
def test_the_verdict_on_a_fault_names_its_signals_the_farthest_first(record, stops, said):
    assert shown(record, stops=stops) == said


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Let every fault be caught and cases without one repeat, except what a test adds."""
    added = {}

    def measure_all(jobs):
        for job in jobs:
            usual = trained(job.case) if not job.known else repeating(job.case)
            worse = repeating(job.case, forward_flops=10**12)
            found = usual if job.fault is None else worse
            yield added.get((job.fault, bool(job.known)), Run(record=found))

    there = msgspec.structs.replace(fault_runs.describe_machine(), digest="sha256:elsewhere")

    def elsewhere(job):
        return Run(record=trained(job.case, curve=OTHER, machine=there))

    packages = functools.cache(fault_runs.installed_packages)
    monkeypatch.setattr(fault_runs, "installed_packages", packages)
    page = tmp_path / "caught.md"
    page.write_text(faults.PAGE.read_text())
    monkeypatch.setattr(faults, "PAGE", page)
    monkeypatch.setattr(faults, "measure_all", measure_all)
    monkeypatch.setattr(faults, "measure_elsewhere", lambda jobs: map(elsewhere, jobs))
    return added


def test_the_command_passes_if_all_is_caught_and_names_what_is_not(results, capsys):
    assert faults.main(["--only", "dora-*"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("without a fault: 1 of 1 cases repeat\n")
    assert "\n8 faults, 8 caught; 8 train as without the fault; 0 not caught on" in out
    case = FAULTS["dora-magnitude-frozen"].case
    results["dora-magnitude-frozen", True] = Run(record=repeating(case))
    results["dora-norm-not-detached", True] = Run(complaint="never ran")
    assert faults.main(["--only", "dora-*"]) == 1
    out = capsys.readouterr().out
    assert "8 faults, 6 caught, 1 uncaught, 1 broken" in out
    assert "dora-norm-not-detached is broken, dora-magnitude-frozen is uncaught" in out


def test_the_table_says_what_shows_a_fault_here_and_on_another_kind_of_machine(results, capsys):
    results["lora-a-zero", True] = Run(record=trained(FAULTS["lora-a-zero"].case, curve=OTHER))
    assert faults.main(["--write"]) == 0
    page, end = faults.PAGE.read_text(), "1 not caught on another kind of machine"
    assert f"{len(FAULTS)} faults, {len(FAULTS)} caught; {len(FAULTS) - 1} train as" in page
    assert f"without the fault; {end}.\n" in page
    assert "| `lora-b-not-zero` | `forward_flops` | `forward_flops` |\n" in page
    unseen = "**uncaught**: nothing beyond its bound"
    assert f"| `lora-a-zero` | `curve` from step 7 on | {unseen} |\n" in page
    assert "machine, without a fault: 1 of 1 cases pass\n" in capsys.readouterr().out


@pytest.mark.nightly
def test_real_faults_are_caught_in_separate_processes(capsys):
    assert faults.main(["--only", "labels-smoothed", "schedule-ends-early"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"caught +labels-smoothed: first_losses [\d,]+x", out)
    assert re.search(r"caught +schedule-ends-early: evaluation, rates\n", out)
    assert out.startswith("without a fault: 1 of 1 cases repeat\n")
    assert "on another kind of machine, without a fault: 1 of 1 cases pass\n" in out


def test_the_page_has_one_row_per_fault():
    table = faults.PAGE.read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \|$", table, re.MULTILINE)
    assert sorted(rows) == sorted(fault.name for fault in FAULTS.values())
    total = re.search(rf"^{len(FAULTS)} faults, .*", table, re.MULTILINE)[0]
    page = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()
    assert total in " ".join(page.split())
