"""The faults that try the gate: the catalogue, the injection, and docs/detection.md."""

from __future__ import annotations

import re
import sys
import types
from importlib import import_module

import fault_catalogue
import fault_runs
import faults
import msgspec
import pytest
from builders import LORA, VALUES, make_record, observe_all
from fault_catalogue import FAULTS, Fault
from fault_catalogue.fault import InjectedError
from fault_catalogue.injection import BrokenFaultError, injected
from fault_runs import Judge, Run, control_complaints, judged, measure
from fault_table import line, table

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.schema import Computation, Failure

CHEAPEST = "shift/head/shufflenet_v2_x0_5"
HELD = {"held": True}


def make_fault(replacement=None, *, at="library:right", cases=(LORA,), stops=False, unseen=""):
    return Fault(
        name="wrong",
        area="LoRA",
        wrong="All of it.",
        cases=cases,
        at=(at,),
        replacement=replacement or (lambda original, *a, **k: original(*a, **k)),
        stops=stops,
        unseen=unseen,
    )


# --- The catalogue --------------------------------------------------------------------------------


def test_there_are_at_least_forty_faults_with_different_names():
    found = [
        item
        for module in fault_catalogue._MODULES
        for item in vars(module).values()
        if isinstance(item, Fault)
    ]
    assert len(found) == len({fault.name for fault in found}) == len(FAULTS) >= 40


def test_every_area_has_faults():
    assert {fault.area for fault in FAULTS.values()} == set(fault_catalogue.AREAS)


def test_every_case_is_in_a_matrix():
    known = {case.id for matrix in ("default", "extended") for case in matrix_cases(matrix)}
    for fault in FAULTS.values():
        assert set(fault.cases) <= known, fault.name


def test_every_fault_says_what_is_wrong_in_one_sentence():
    for fault in FAULTS.values():
        assert re.fullmatch(r"[A-Z].+\.", fault.wrong), fault.name


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


def test_a_function_is_replaced_until_the_block_ends(library):
    right = library.right
    with injected(make_fault(lambda _original, number: number)):
        assert library.right(3) == 3
    assert library.right is right


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


def refuse(_original, _number):
    raise InjectedError("no")


@pytest.mark.parametrize(
    ("replacement", "error"), [(None, ZeroDivisionError), (refuse, NotImplementedError)]
)
def test_an_error_of_the_original_or_on_purpose_counts(library, replacement, error):
    with injected(make_fault(replacement)) as injection, pytest.raises(error):
        library.right(0)
    assert injection.complaint() is None


def test_a_missing_function_breaks_the_run_and_not_the_command():
    assert "peft:gone no longer exists" in measure(make_fault(at="peft:gone"), []).complaint


# --- The verdict ----------------------------------------------------------------------------------


def outcome_of(record, *, stops=False, complaint=None, unseen=""):
    judge = Judge(observe_all([make_record(invariants=HELD)]))
    return judged(
        make_fault(stops=stops, unseen=unseen), Run(records=(record,), complaint=complaint), judge
    )


def test_a_fault_that_changes_nothing_is_uncaught():
    outcome = outcome_of(make_record(invariants=HELD))
    assert (outcome.state, outcome.remark) == ("uncaught", "nothing beyond its bound")
    assert outcome.complaint == "uncaught"


def test_only_the_strict_gate_fails_a_fault_that_lowers_a_cost():
    outcome = outcome_of(make_record(metrics={**VALUES, "forward_flops": 1}, invariants=HELD))
    assert outcome.complaint is None
    assert line(outcome) == "strict   wrong: forward_flops exact [certificate: none]"
    assert "**improved**: fails under `--regress-strict`" in table([outcome])


def test_a_fault_that_the_catalogue_calls_unseen_must_be_unseen():
    unseen = outcome_of(make_record(invariants=HELD), unseen="it comes too late")
    assert (unseen.state, unseen.complaint) == ("uncaught", None)
    assert "**uncaught**: it comes too late" in table([unseen])
    seen = outcome_of(make_record(invariants={"held": False}), unseen="it comes too late")
    assert seen.complaint == "is seen, but the catalogue says unseen"
    broken = outcome_of(make_record(), complaint="never ran", unseen="it comes too late")
    assert broken.complaint == "broken"


def test_a_fault_that_fails_the_gate_is_caught_with_its_signals():
    moved = {**VALUES, "peak_bytes": 240_000_000, "forward_flops": 3_638_000_001, "loss": [0.6] * 3}
    outcome = outcome_of(make_record(metrics=moved, invariants={"held": False}))
    assert outcome.state == "caught"
    assert line(outcome) == (
        "caught   wrong: forward_flops exact, held true -> false, peak_bytes 1,000x, loss 7.1x "
        "[certificate: none]"
    )


def computed(record, **changes):
    computation = Computation(graph="sha256:1", state="sha256:2", torch="2.13.0", **changes)
    return msgspec.structs.replace(record, computation=computation)


def test_a_fault_fools_the_certificate_if_a_quick_run_misses_what_a_full_one_sees():
    known = make_record(invariants=HELD)
    worse = computed(make_record(metrics={**VALUES, "loss": [0.6] * 3}, invariants=HELD))
    costs = {name: value for name, value in VALUES.items() if name not in {"loss", "accuracy"}}
    certified = computed(make_record(metrics=costs, invariants=HELD), same_as="control")
    judge = Judge(observe_all([known]))
    found = judged(make_fault(), Run(records=(worse,), certified=(certified,)), judge)
    assert (found.certificate, found.fooled) == ("same", True)
    assert found.complaint == "fools the certificate"
    assert "1 the same as without the fault, of which 1 wrong" in table([found])
    seen = computed(make_record(metrics=costs, invariants={"held": False}), same_as="control")
    found = judged(make_fault(), Run(records=(worse,), certified=(seen,)), judge)
    assert (found.certificate, found.fooled, found.complaint) == ("same", False, None)
    found = judged(make_fault(), Run(records=(worse,)), judge)
    assert (found.certificate, found.fooled) == ("different", False)


BROKEN = Failure(type="AttributeError", message="moved")


def test_a_case_that_stops_unexpectedly_is_broken():
    outcome = outcome_of(make_record(status="error", error=BROKEN))
    assert (outcome.state, outcome.remark) == (
        "broken",
        f"stopped unexpectedly: {LORA} is error (AttributeError: moved)",
    )


def test_a_fault_that_stops_the_library_is_caught_by_the_state():
    outcome = outcome_of(make_record(status="error", error=BROKEN), stops=True)
    assert line(outcome) == "caught   wrong: status error [certificate: none]"


def test_what_a_broken_fault_measured_does_not_count():
    worse = make_record(metrics={**VALUES, "forward_flops": 10**12}, invariants=HELD)
    outcome = outcome_of(worse, complaint="never ran")
    assert (outcome.state, outcome.remark, outcome.reasons) == ("broken", "never ran", ())


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (make_record(metrics={"trainable_params": 1}), f"{LORA}: regressed: "),
        (make_record("shift/lora-r9/resnet18"), "shift/lora-r9/resnet18: new: "),
    ],
)
def test_a_control_that_differs_or_has_no_baseline_is_not_quiet(record, complaint):
    judge = Judge(observe_all([make_record()]))
    (found,) = control_complaints(Run(records=(record,)), judge)
    assert found.startswith(complaint)
    assert control_complaints(Run(records=(make_record(),)), judge) == []
    assert control_complaints(Run(complaint="no answer"), judge) == ["no answer"]


def test_the_stored_baselines_judge():
    assert list(fault_runs.BASELINES.glob("*/0001_*.json"))


@pytest.mark.slow
def test_a_fault_that_does_nothing_is_uncaught_by_a_real_measurement():
    nothing = make_fault(at="peft_regress.measure.objective:cross_entropy", cases=[CHEAPEST])
    outcome = judged(nothing, measure(nothing, nothing.cases), Judge())
    assert (outcome.state, outcome.remark) == ("uncaught", "nothing beyond its bound")


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Let every fault be caught and the control be quiet, except what a test adds."""
    added = {}
    reference = {case: make_record(case) for fault in FAULTS.values() for case in fault.cases}

    def measure_all(jobs, known=None):
        for fault, (case,) in jobs:
            worse = make_record(case, {**VALUES, "forward_flops": 10**12})
            unmoved = fault is None or fault.unseen
            usual = Run(records=(reference[case] if unmoved else worse,))
            yield fault, added.get(fault and fault.name, usual)

    page = tmp_path / "detection.md"
    page.write_text(faults.PAGE.read_text())
    monkeypatch.setattr(faults, "PAGE", page)
    monkeypatch.setattr(faults, "measure_all", measure_all)
    monkeypatch.setattr(faults, "Judge", lambda: Judge(observe_all(reference.values())))
    return added


def test_the_command_passes_if_all_is_caught_and_the_control_is_quiet(results, capsys):
    assert faults.main(["--only", "dora-*"]) == 0
    assert "without a fault: quiet in 1 cases" in capsys.readouterr().out


def test_the_command_fails_and_names_what_is_not_caught(results, capsys):
    case = FAULTS["dora-magnitude-frozen"].cases[0]
    results["dora-magnitude-frozen"] = Run(records=(make_record(case),))
    results["dora-norm-not-detached"] = Run(complaint="never ran")
    assert faults.main(["--only", "dora-*"]) == 1
    out = capsys.readouterr().out
    assert "5 caught, 1 uncaught, 1 broken" in out
    assert "dora-norm-not-detached broken, dora-magnitude-frozen uncaught" in out
    assert "broken   dora-norm-not-detached: never ran" in out


def test_the_command_fails_and_keeps_the_page_if_the_control_is_not_quiet(results, capsys):
    results[None] = Run(complaint="it moved")
    before = faults.PAGE.read_text()
    assert faults.main(["--write"]) == 1
    assert "without a fault: not quiet" in capsys.readouterr().out
    assert faults.PAGE.read_text() == before


def test_the_command_writes_the_table_between_the_markers(results):
    assert faults.main(["--write"]) == 0
    page = faults.PAGE.read_text()
    assert not [fault.name for fault in FAULTS.values() if fault.unseen]
    assert f"{len(FAULTS)} faults, {len(FAULTS)} caught." in page
    assert f"| `{CHEAPEST}` | `forward_flops` exact |" in page


def test_list_tries_nothing(results, capsys):
    results.update(dict.fromkeys([None, *FAULTS], Run(complaint="tried")))
    assert faults.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FAULTS)


def test_a_glob_that_matches_no_fault_is_refused():
    with pytest.raises(SystemExit, match="no fault matches 'nothing'"):
        faults.main(["--only", "nothing"])


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(SystemExit, match="add <!-- faults --> and <!-- /faults -->"):
        faults.put("no markers", "| |")


@pytest.mark.slow
def test_real_faults_are_caught_in_separate_processes(capsys):
    assert faults.main(["--only", "labels-*"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"caught   labels-shuffled: .*first_losses [\d,]+x", out)
    assert "without a fault: quiet in 1 cases\n2 faults, 2 caught" in out


@pytest.mark.slow
def test_a_fault_that_never_answers_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(fault_runs, "_LONGEST_SECONDS", 0.01)
    assert faults.main(["--only", "labels-shuffled"]) == 1
    assert "broken   labels-shuffled: gave no answer within 0.01 s" in capsys.readouterr().out


# --- The page -------------------------------------------------------------------------------------


def test_the_page_has_one_row_per_fault():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \|", faults.PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {fault.name: fault.wrong for fault in FAULTS.values()}
    assert len(rows) == len(FAULTS)


def test_a_multiple_has_two_digits_and_a_broken_fault_says_why():
    outcome = outcome_of(
        make_record(metrics={**VALUES, "peak_bytes": 121_234_567}, invariants=HELD)
    )
    assert "| `peak_bytes` 10x |" in table([outcome])
    assert "| **broken**: never ran |" in table([outcome_of(make_record(), complaint="never ran")])
