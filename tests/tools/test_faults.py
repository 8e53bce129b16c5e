"""The faults that try the gate: the catalogue, the injection, and docs/evidence.md."""

from __future__ import annotations

import re
import sys
import types
from importlib import import_module

import fault_catalogue
import faults
import pytest
from builders import LORA, VALUES, make_record
from fault_catalogue import FAULTS, Fault
from fault_catalogue.injection import BrokenFaultError, injected
from fault_catalogue.own_case import OWN_CASES
from fault_runs import Job, Judge, Run, judged, measure, noise_of
from faults import line, table

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.schema import Curve, Failure

CHEAPEST = "shift/head/shufflenet_v2_x0_5"


def make_fault(replacement=None, *, at="library:right", case=LORA, stops=False):
    return Fault(
        name="wrong",
        area="LoRA",
        wrong="All of it.",
        case=case,
        at=(at,),
        replacement=replacement or (lambda original, *a, **k: original(*a, **k)),
        stops=stops,
    )


# --- The catalogue --------------------------------------------------------------------------------


def test_every_fault_has_a_name_a_sentence_an_area_and_a_case():
    modules = fault_catalogue._MODULES
    found = [one for module in modules for one in vars(module).values() if isinstance(one, Fault)]
    assert len(found) == len(FAULTS) >= 143
    assert {fault.area for fault in found} == set(fault_catalogue.AREAS)
    known = {case.id for matrix in ("default", "extended") for case in matrix_cases(matrix)}
    assert {fault.case for fault in found} <= {*known, *OWN_CASES}
    assert [one.name for one in found if not re.fullmatch(r"[A-Z].+\.", one.wrong)] == []


def test_every_function_that_a_fault_replaces_exists():
    import_module("peft")
    for fault in FAULTS.values():
        with injected(fault) as injection:
            assert injection.calls.keys() == set(fault.at), fault.name


# --- The injection --------------------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch):
    class Base:
        def inherited(self):
            return "right"

    class Owner(Base):
        @staticmethod
        def static():
            return "right"

        @classmethod
        def of_class(cls):
            return cls.__name__

    module = types.ModuleType("library")
    module.right = lambda number=0: 1 / number
    module.Owner = Owner
    monkeypatch.setitem(sys.modules, "library", module)
    return module


@pytest.mark.parametrize(
    ("name", "expected"), [("static", "right"), ("of_class", "Owner"), ("inherited", "right")]
)
def test_a_method_stays_static_or_of_the_class(library, name, expected):
    before = dict(vars(library.Owner))
    fault = make_fault(lambda original, *a: f"not {original(*a)}", at=f"library:Owner.{name}")
    with injected(fault) as injection:
        assert getattr(library.Owner(), name)() == f"not {expected}"
    assert getattr(library.Owner(), name)() == expected
    assert dict(vars(library.Owner)) == before
    assert injection.complaint() is None


def test_a_fault_that_nothing_calls_does_not_count(library):
    with injected(make_fault()) as injection:
        pass
    assert injection.complaint() == "never ran: nothing calls library:right"


@pytest.mark.parametrize("at", ["library:left", "library:Owner.left", "nowhere:right"])
def test_a_missing_function_is_an_error_with_its_name(library, at):
    with (
        pytest.raises(BrokenFaultError, match=f"{at} no longer exists"),
        injected(make_fault(at=at)),
    ):
        pass


def wrongly_called(original, _number):
    return original(1, 2, 3)


def wrong_itself(_original, number):
    return number.moved


@pytest.mark.parametrize("replacement", [wrongly_called, wrong_itself])
def test_a_fault_that_fails_itself_does_not_count(library, replacement):
    with injected(make_fault(replacement)) as injection, pytest.raises((AttributeError, TypeError)):
        library.right(1)
    assert injection.complaint().startswith("the fault itself fails: ")


def test_a_missing_function_breaks_the_run_and_not_the_command(monkeypatch):
    monkeypatch.setitem(FAULTS, "wrong", make_fault(at="peft:gone"))
    assert "peft:gone no longer exists" in measure(Job(case=LORA, fault="wrong")).complaint


# --- The verdict ----------------------------------------------------------------------------------

CURVE = Curve(losses=[2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7], scores={"loss": 0.3})
OTHER = Curve(losses=[*CURVE.losses[:6], 1.6], scores={"loss": 0.3})
COSTS = {name: value for name, value in VALUES.items() if name not in {"loss", "accuracy"}}
BROKEN = Failure(type="AttributeError", message="moved")


def trained(case=LORA, metrics=VALUES, *, curve=CURVE, held=True, **more):
    return make_record(case, metrics, curve=curve, invariants={"held": held}, **more)


def repeating(case=LORA, **costs):
    return trained(case, {**COSTS, **costs}, repeats="no fault")


def outcome_of(record, *, stops=False, complaint=""):
    return judged(make_fault(stops=stops), Run(record=record, complaint=complaint), JUDGE)


JUDGE = Judge([trained()])


def test_a_fault_that_changes_nothing_is_uncaught():
    outcome = outcome_of(repeating())
    assert (outcome.state, outcome.remark) == ("uncaught", "nothing beyond its bound")
    assert line(outcome) == "uncaught repeats wrong: nothing beyond its bound"


def test_only_the_strict_gate_fails_a_fault_that_lowers_a_cost():
    outcome = outcome_of(repeating(forward_flops=1))
    assert line(outcome) == "strict   repeats wrong: forward_flops"
    assert "| `forward_flops`, **improved** |" in table([outcome])


def test_a_fault_that_fails_the_gate_is_caught_with_its_signals_the_farthest_first():
    moved = {**VALUES, "peak_bytes": 240_000_000, "forward_flops": 3_638_000_001, "loss": [0.6] * 3}
    outcome = outcome_of(trained(metrics=moved, curve=OTHER, held=False))
    assert line(outcome) == (
        "caught           wrong: curve from step 7 on, forward_flops, held false, "
        "peak_bytes 1,000x, loss 7.1x"
    )
    assert "`curve` from step 7 on, `forward_flops`, 3 more |" in table([outcome])


@pytest.mark.parametrize(
    ("stops", "shown"),
    [
        (False, "broken           wrong: stopped unexpectedly: error (AttributeError: moved)"),
        (True, "caught           wrong: status error"),
    ],
)
def test_a_case_that_stops_is_broken_unless_the_fault_stops_the_library(stops, shown):
    assert line(outcome_of(make_record(status="error", error=BROKEN), stops=stops)) == shown


@pytest.mark.parametrize(
    ("run", "noise"),
    [
        (Run(record=repeating()), ""),
        (Run(record=repeating(peak_bytes=240_000_000)), f"{LORA}: regressed: peak_bytes"),
        (Run(record=trained()), f"{LORA}: unchanged: another training"),
        (Run(complaint="no answer"), f"{LORA}: no answer"),
    ],
)
def test_a_case_without_a_fault_must_repeat_its_reference(run, noise):
    assert noise_of(LORA, run, JUDGE) == noise


# --- The command ----------------------------------------------------------------------------------


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

    page = tmp_path / "evidence.md"
    page.write_text(faults.PAGE.read_text())
    monkeypatch.setattr(faults, "PAGE", page)
    monkeypatch.setattr(faults, "measure_all", measure_all)
    return added


def test_the_command_passes_if_all_is_caught_and_cases_without_a_fault_repeat(results, capsys):
    assert faults.main(["--only", "dora-*"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("without a fault: 1 of 1 cases repeat\n")
    assert out.endswith("7 faults, 7 caught; 7 train as without the fault\n")


def test_the_command_fails_and_names_what_is_not_caught(results, capsys):
    case = FAULTS["dora-magnitude-frozen"].case
    results["dora-magnitude-frozen", True] = Run(record=repeating(case))
    results["dora-norm-not-detached", True] = Run(complaint="never ran")
    assert faults.main(["--only", "dora-*"]) == 1
    out = capsys.readouterr().out
    assert "7 faults, 5 caught, 1 uncaught, 1 broken" in out
    assert "dora-norm-not-detached is broken, dora-magnitude-frozen is uncaught" in out


def test_what_only_training_all_seeds_shows_is_named(results, capsys):
    case = FAULTS["dora-magnitude-frozen"].case
    results["dora-magnitude-frozen", True] = Run(record=repeating(case, forward_flops=1))
    worse = {**VALUES, "forward_flops": 1, "loss": [0.6] * 3}
    results["dora-magnitude-frozen", False] = Run(record=trained(case, worse))
    assert faults.main(["--only", "dora-*", "--full"]) == 1
    named = "not as it should be: dora-magnitude-frozen is caught in full alone"
    assert named in capsys.readouterr().out


def test_without_a_reference_nothing_is_tried(results):
    results[None, False] = Run(complaint="gave no answer")
    with pytest.raises(SystemExit, match=r"no reference: shift/dora-.*: gave no answer"):
        faults.main(["--only", "dora-*"])


def test_the_command_writes_the_table_between_the_markers(results):
    assert faults.main(["--write"]) == 0
    page = faults.PAGE.read_text()
    assert f"{len(FAULTS)} faults, {len(FAULTS)} caught;" in page
    assert "| `forward_flops` |" in page


def test_list_tries_nothing(results, capsys):
    assert faults.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FAULTS)


def test_a_glob_that_matches_no_fault_is_refused():
    with pytest.raises(SystemExit, match="no fault matches 'nothing'"):
        faults.main(["--only", "nothing"])


@pytest.mark.slow
def test_real_faults_are_caught_in_separate_processes(capsys):
    assert faults.main(["--only", "labels-smoothed", "schedule-ends-early"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"caught +labels-smoothed: first_losses [\d,]+x", out)
    assert re.search(r"caught +schedule-ends-early: evaluation, rates\n", out)
    assert out.startswith("without a fault: 1 of 1 cases repeat\n")


# --- The page -------------------------------------------------------------------------------------


def test_the_page_has_one_row_per_fault():
    table = faults.PAGE.read_text().partition("<!-- faults -->")[2].partition("<!-- /faults -->")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \|$", table, re.MULTILINE)
    assert sorted(rows) == sorted(fault.name for fault in FAULTS.values())
