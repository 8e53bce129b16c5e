"""Cases are measured by workers of another interpreter, whatever happens in them."""

import dataclasses
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from builders import CURVE, MACHINE, make_record, make_run
from fake_interpreters import (
    all_gone,
    logged,
    processes_of,
    wait_until,
    write_program,
    write_worker,
)
from msgspec import UNSET
from package_world import SETUP as WORLD

import peft_regress.measure as measuring_code
from peft_regress import processes
from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.catalogue.matrix import matrix_cases, parse_case_id
from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.measure import Recipe, measure
from peft_regress.measure.costs import ProfileCache
from peft_regress.metrics import COST_METRICS, INFERENCE_METRICS
from peft_regress.project.budgets import Budget
from peft_regress.project.project import current_project
from peft_regress.runner import measuring
from peft_regress.runner.measurer import CaseAnswer, CaseRequest, Measurer
from peft_regress.runner.measuring import measure_cases, save_run
from peft_regress.runs.journal import Header, KeptRecord
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Record, with_budget
from peft_regress.workers import worker as process_module
from peft_regress.workers.pool import NodeError, UnusableEnvironmentError

ROOT = Path(__file__).parents[2]
SETUP = dataclasses.replace(WORLD, baselines=ROOT / "baselines", time_limit=120)
IDS = ("shift/lora-r4/resnet18", "unseen/lora-r4/resnet18", "shift/head/resnet18")
BAD, SECOND, OTHER = IDS
CASES = [parse_case_id(name) for name in IDS]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Write a worker outside of an environment; as soon as it hangs, its time limit is over.

    Afterwards no process of it is left.
    """
    python = str(tmp_path / "python")
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + 1000 * len(logged(python, "child"))
    )
    monkeypatch.setattr(process_module, "time", clock)
    monkeypatch.setattr(processes, "time", clock)
    yield lambda **options: write_worker(tmp_path / "python", **options)
    assert all_gone(processes_of(python))


def measured(python, *, cases=CASES, jobs=1, baselines=SETUP.baselines, **options):
    setup = dataclasses.replace(SETUP, project=current_project(), jobs=jobs, baselines=baselines)
    return measure_cases(cases, python=Path(python), setup=setup, **options)


def test_a_run_has_the_workers_packages_and_each_case(worker):
    python = worker(packages={"peft": "0.14.0"})
    records = []
    run = measured(python, on_record=records.append, narrowed_by=["--cases x"])
    assert set(run.cases) == set(IDS)
    assert run.environment == {"peft": "0.14.0"}
    assert run.machine.cpu == "Example CPU"
    assert [record.case.id for record in records] == [OTHER, *sorted(IDS[:2])]
    assert not run.selection.complete
    assert run.selection.narrowed_by == ["--cases x"]
    assert len(run.selection.not_selected) == len(matrix_cases("default")) - len(IDS)


def test_records_have_the_budgets_of_the_project_that_orders_them(worker, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.peft_regress]\nbudgets = "mine.toml"\n')
    (tmp_path / "mine.toml").write_text(
        f'[one]\nreason = "r"\ncases."{OTHER}" = {{peak = "1 MiB"}}\n'
    )
    monkeypatch.chdir(tmp_path)
    budgets = {name: record.budget for name, record in measured(worker()).cases.items()}
    assert budgets.pop(OTHER) == Budget(peak=2**20)
    assert set(budgets.values()) == {UNSET}


def test_workers_share_the_cases_and_each_adaptation_has_one(worker, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    python = worker()
    cases = matrix_cases("default")
    run = measured(python, cases=cases, jobs=3)
    assert set(run.cases) == {case.id for case in cases}
    assert run.selection.complete
    assert run.selection.narrowed_by == []
    by_adaptation: dict[tuple, set[int]] = {}
    for process, request in logged(python, "measure"):
        by_adaptation.setdefault(request["case"].partition("/")[2:], set()).add(process)
    assert all(len(found) == 1 for found in by_adaptation.values())
    assert len(logged(python, "measure")) == len(cases)
    started = [one for _, one in logged(python, "started")]
    assert len(started) <= 3
    for one in started:
        # A folder of its own, which is removed; no variables of the test runner.
        assert not Path(one["folder"]).exists()
        assert {"HF_HOME", "HF_HUB_OFFLINE", "PYTHONHASHSEED"} <= set(one["variables"])
        assert not [name for name in one["variables"] if name.startswith("PYTEST_")]
    assert not Path("litter").exists()


WRONG = [
    ({"case": msgspec.to_builtins(CASES[2])}, f"case '{BAD}' has the record of '{OTHER}'"),
    ({"definition": "another"}, f"{BAD}: definition 'another', expected "),
    ({"status": "error"}, f"{BAD}: status 'error' with error None"),
    ({"metrics": {}}, f"{BAD}: status 'ok' with 0 metrics"),
    ({"ledger": f"sha256:{'0' * 64}"}, f"{BAD}: its ledger stands elsewhere"),
]
"""Records that no run file could hold."""


@pytest.mark.parametrize(
    ("how", "wrong", "kind", "message"),
    [
        ("kill", {}, "WorkerLost", "its worker was killed by SIGKILL: no error message"),
        ("exit", {}, "WorkerLost",
         "its worker ended with exit code 3: File layer.py: ImportError: broken"),
        ("hang", {}, "TimeoutError", "no result within 120 s"),
        ("babble", {}, "WorkerLost", "its worker answered 'Epoch 1'"),
        ("null", {}, "WorkerLost", "its worker answered"),
        *(("", wrong, "WorkerLost", problem) for wrong, problem in WRONG),
    ],
)  # fmt: skip
def test_a_lost_case_is_in_error_and_the_rest_goes_on(worker, how, wrong, kind, message):
    python = worker(how={BAD: how}, wrong={BAD: wrong})
    run = measured(python)
    lost = run.cases[BAD]
    assert (lost.status, lost.error.type) == ("error", kind)
    assert lost.error.message.startswith(message)
    assert "/tmp" not in lost.error.message
    assert (lost.definition, lost.metrics) == (run.cases[SECOND].definition, {})
    assert [run.cases[name].status for name in (SECOND, OTHER)] == ["ok", "ok"]


def test_a_folder_that_is_not_utf_8_is_named(worker):
    with pytest.raises(InputError, match=r"\\udcff/baselines: is not UTF-8; rename it"):
        measured(worker(), baselines=Path("\udcff/baselines"))


def answered(record, *, definition="sha256:definition", loaded=()):
    header = Header(environment={"peft": "0.18.1"}, machine=MACHINE, metrics_known=[])
    kept = None if record is None else KeptRecord(record=record, loaded=list(loaded))
    return CaseAnswer(where="node 7", header=header, definition=definition, kept=kept)


@pytest.mark.parametrize(("wrong", "problem"), [*WRONG, (None, f"{BAD}: no record")])
def test_such_a_record_of_another_machine_is_refused_with_its_name(wrong, problem):
    sent = {**msgspec.to_builtins(make_record(BAD)), **(wrong or {})}
    future: Future[CaseAnswer] = Future()
    future.set_result(answered(None if wrong is None else msgspec.convert(sent, Record)))
    pool = SimpleNamespace(is_remote=True, submit=lambda *of: [future] * len(of[2]))
    setup = dataclasses.replace(SETUP, pool=pool)
    with pytest.raises(NodeError, match=f"^node 7: {re.escape(problem)}"):
        measure_cases(CASES[:1], python=Path(sys.executable), setup=setup)


def test_a_worker_lost_between_cases_is_replaced(worker):
    python = worker(how={f"after {BAD}": "exit", f"after {OTHER}": "kill"})
    run = measured(python)
    assert {record.status for record in run} == {"ok"}
    # No case was measured twice.
    assert len(logged(python, "measure")) == len(IDS)


HYBRID = "ImportError: cannot import name 'HybridCache'"


@pytest.mark.parametrize(
    ("at", "how", "message"),
    [
        (f"before {OTHER}", "refuse", f"{OTHER}: .*{HYBRID}"),
        (OTHER, "refuse", f"{OTHER}: .*{HYBRID}"),
        ("import_modules", "refuse", HYBRID),
        ("import_modules", "kill", None),
        ("import_modules", "babble", None),
        ("greeting", "exit", None),
        ("greeting", "hang", None),
    ],
)
def test_what_a_fresh_worker_refuses_or_does_not_survive_is_the_environments(
    worker, at, how, message
):
    python = worker(how={at: how})
    with pytest.raises(UnusableEnvironmentError, match=message):
        measured(python)


def test_a_child_that_holds_the_pipe_open_does_not_hide_a_death(worker):
    path = Path(worker(how={BAD: "kill"}))
    script = path.read_text().replace(
        'log("measure",', 'child = os.fork() or time.sleep(600)\n        log("measure",'
    )
    assert "os.fork" in script
    before = time.monotonic()
    run = measured(write_program(path, script), cases=CASES[:1])
    assert time.monotonic() - before < SETUP.time_limit / 2
    assert "SIGKILL" in run.cases[BAD].error.message


def test_packages_that_change_during_a_run_are_refused(worker):
    python = worker(how={BAD: "kill"})
    changing = 'packages={"pid": str(os.getpid())} or script'
    script = Path(python).read_text().replace("packages=script", changing)
    with pytest.raises(UnusableEnvironmentError, match="packages changed"):
        measured(write_program(Path(python), script))


def test_a_package_that_is_not_the_installed_one_is_refused(tmp_path):
    """If PYTHONPATH has a checkout of peft, the installed version is not what is measured."""
    own = tmp_path / "lib" / "python3.11" / "site-packages" / "peft" / "__init__.py"
    python = tmp_path / "bin" / "python"
    for file in (own, python):
        file.parent.mkdir(parents=True)
    own.touch()
    measured(write_worker(python, file=str(own)))
    with pytest.raises(UnusableEnvironmentError, match=r"/checkout/peft.*unset PYTHONPATH"):
        measured(write_worker(python, file="/checkout/peft/__init__.py"))


@pytest.mark.parametrize("at", [SECOND, "greeting", "import_modules"])
def test_an_interrupt_ends_every_process_and_saves_the_records(tmp_path, at):
    python = write_worker(tmp_path / "python", how={at: "hang"})
    save = tmp_path / "run.json"

    def interrupt():
        wait_until(lambda: logged(python, "child"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored in background
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        measured(python, jobs=2, save=save, cases=CASES[:2])
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert save.exists() == (at == SECOND)
    if save.exists():
        run = read_run_file(save).run
        assert (list(run.cases), run.selection.narrowed_by) == ([BAD], ["interrupted"])
    assert all_gone(processes_of(python))


TINY = Case(task="shift", method="lora", architecture="tiny", rank=4)


def test_without_training_a_record_has_only_costs_and_can_be_stored(tiny_root, tmp_path):
    measurer = Measurer()
    costs = CaseRequest(case=TINY.id, baselines=str(tiny_root), trains=False)
    definition = measurer.prepare(costs)
    record = measurer.measure(costs).record
    assert record.definition == definition
    names = {name.removesuffix("_b32") for name in record.metrics}
    assert {"backward_flops", "trainable_params", "adapter_bytes"} <= names
    sizes = {"trainable_params", "total_params", "adapter_bytes"}
    assert names <= {*COST_METRICS, *INFERENCE_METRICS, *sizes}
    assert (record.status, record.invariants) == ("ok", {})
    save_run(tmp_path / "run.json", make_run(record))
    assert read_run_file(tmp_path / "run.json").run.cases == {TINY.id: record}
    trained = measurer.measure(CaseRequest(case=TINY.id, baselines=str(tiny_root))).record
    how = {"profiles": ProfileCache(), "timed": False, "keep_referee": True}
    assert trained == measure(Recipe.of(TINY, tiny_root), **how).record
    assert {name: trained.metrics[name] for name in record.metrics} == record.metrics


def test_an_error_in_the_measuring_code_is_the_failure_of_the_case(tiny_root, monkeypatch):
    def broken(*_, **__):
        raise AttributeError("no scaling")

    monkeypatch.setattr(measuring_code, "measure", broken)
    measurer = Measurer()
    request = CaseRequest(case=TINY.id, baselines=str(tiny_root), trains=False)
    measurer.prepare(request)
    record = measurer.measure(request).record
    assert (record.case, record.status) == (TINY, "error")
    assert (record.error.type, record.error.message) == ("AttributeError", "no scaling")


@pytest.mark.nightly
def test_a_real_worker_measures_what_this_process_does():
    case = parse_case_id("shift/head/shufflenet_v2_x0_5")
    run = measured(sys.executable, cases=[case])
    how = {"profiles": ProfileCache(), "timed": False, "keep_referee": True}
    here = measure(Recipe.of(case, SETUP.baselines), **how).record
    assert run.cases == {case.id: with_budget(here, read_budgets(ROOT / "benchmarks/budgets.toml"))}


def test_the_packages_that_cases_load_are_known_unless_a_case_fails(monkeypatch):
    def ask_case(_, __, request):
        case = Case.parse(request.case)
        record = make_record(case.id, status="error" if case.id == BAD else "ok")
        return answered(record, definition=record.definition, loaded=["torch", case.method])

    monkeypatch.setattr(measuring, "ask_case", ask_case)
    loaded = {}
    measure_cases(CASES, python=Path("python"), setup=SETUP, trains=False, loaded=loaded)
    ran = [case for case in CASES if case.id != BAD]
    assert loaded == {case.id: ["torch", case.method] for case in ran}


def test_what_is_known_reaches_the_measuring_code(monkeypatch):
    measurer = Measurer()
    measurer._project = SETUP.project
    measurer._recipe = SimpleNamespace(packages=dict, loaded=lambda: {"torch"})
    given = []

    def measured(_, *, known, **__):
        given.append(known)
        return SimpleNamespace(record=make_record())

    monkeypatch.setattr(measuring_code, "measure", measured)
    known = [KnownCurve(curve=CURVE, definition="d", machine="sha256:here", run_name="0001")]
    for those in ([], known):
        asked = CaseRequest(case=TINY.id, baselines="", known=those)
        assert measurer.measure(asked).loaded == ["torch"]
    assert given == [[], known]
