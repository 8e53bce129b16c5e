"""Cases measured by workers of another interpreter, whatever happens in them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from builders import make_run
from fake_interpreters import all_gone, logged, write_measuring_worker, write_program
from tiny_architecture import TinyArchitecture

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases, parse_case_id
from peft_regress.environments.upgrade import upgrade as upgrading
from peft_regress.environments.upgrade.crew import (
    MeasuringSetup,
    UnusableEnvironmentError,
    measure_cases,
)
from peft_regress.environments.upgrade.messages import (
    Failed,
    Import,
    Imported,
    Measure,
    Measured,
    Started,
)
from peft_regress.environments.upgrade.worker import answers_to
from peft_regress.environments.worker.environment_variables import variables
from peft_regress.errors import InputError
from peft_regress.measure import Recipe, measure
from peft_regress.measure.step_profile import ProfileCache
from peft_regress.metrics import COST_METRICS
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
PLACE = MeasuringSetup(baselines=ROOT / "baselines", jobs=1, time_limit=20)
IDS = ("shift/lora-r4/resnet18", "unseen/lora-r4/resnet18", "shift/head/resnet18")
BAD, SECOND, OTHER = IDS
CASES = [parse_case_id(name) for name in IDS]


@pytest.fixture
def worker(tmp_path):
    """Write a worker into a folder that is no environment of its own."""

    def write(**options) -> str:
        return write_measuring_worker(tmp_path / "python", **options)

    return write


def measured(python: str, *, cases=CASES, time_limit: float = 20, jobs: int = 1, **options):
    place = dataclasses.replace(PLACE, time_limit=time_limit, jobs=jobs)
    return measure_cases(cases, python=Path(python), place=place, **options)


def processes(python: str) -> set[int]:
    children = {child for _, child in logged(python, "child")}
    return children | {process for process, _ in logged(python, "started")}


# --- the work ------------------------------------------------------------------------------------


def test_a_run_has_the_workers_packages_and_each_case(worker):
    python = worker(packages={"peft": "0.14.0"})
    told = []
    run = measured(python, tell=told.append, narrowed_by=["--cases x"])
    assert set(run.cases) == set(IDS)
    assert run.environment == {"peft": "0.14.0"}
    assert run.machine.cpu == "Example CPU"
    assert [record.case.id for record in told] == [OTHER, *sorted(IDS[:2])]
    assert not run.selection.complete
    assert run.selection.narrowed_by == ["--cases x"]
    assert len(run.selection.not_selected) == len(matrix_cases("default")) - len(IDS)


def test_workers_share_the_cases_and_each_adaptation_has_one(worker):
    python = worker()
    cases = matrix_cases("default")
    run = measured(python, cases=cases, jobs=3)
    assert set(run.cases) == {case.id for case in cases}
    assert run.selection.complete
    assert run.selection.narrowed_by == []
    by_adaptation: dict[tuple, set[int]] = {}
    for process, request in logged(python, "case"):
        by_adaptation.setdefault(request["case"].partition("/")[2:], set()).add(process)
    assert all(len(found) == 1 for found in by_adaptation.values())
    assert len(logged(python, "case")) == len(cases)
    assert len(processes(python)) <= 3
    assert all_gone(processes(python))


def test_no_case_is_wrong_use():
    with pytest.raises(InputError, match="no case to measure"):
        measured("python", cases=[])


def test_what_is_asked_reaches_the_worker(worker, tmp_path):
    python = worker()
    measured(python, cases=CASES[:1], trains=False, keep_adapters=tmp_path / "kept")
    ((_, request),) = logged(python, "case")
    assert request["trains"] is False
    assert request["keep_adapters"] == str(tmp_path / "kept")
    assert Path(request["baselines"]).is_absolute()


def test_a_worker_s_folder_is_its_own_and_is_removed(worker):
    python = worker()
    measured(python)
    ((_, started),) = logged(python, "started")
    folder = Path(started["folder"])
    assert folder.name.startswith("peft-regress-")
    assert not folder.exists()
    assert not Path("litter").exists()


def test_a_test_runner_s_variables_stay_here(worker, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    python = worker()
    measured(python, cases=CASES[:1])
    ((_, started),) = logged(python, "started")
    assert not [name for name in started["variables"] if name.startswith("PYTEST_")]
    assert {"HF_HOME", "HF_HUB_OFFLINE", "PYTHONHASHSEED"} <= set(started["variables"])
    assert variables()["PYTHONHASHSEED"] == "0"


# --- cases that go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("kill", "WorkerLost", "its worker was killed by SIGKILL: it said nothing"),
        (
            "exit",
            "WorkerLost",
            "its worker ended with exit code 3: File layer.py: ImportError: broken",
        ),
        ("hang", "TimeoutError", "no result within 1 s"),
        ("babble", "WorkerLost", "its worker answered 'Epoch 1'"),
        ("null", "WorkerLost", "its worker answered"),
        ("other", "WorkerLost", "answered Measured("),
        ("fail", "AttributeError", "no scaling"),
    ],
)
def test_a_case_that_is_lost_is_in_error_and_the_rest_goes_on(worker, how, kind, message):
    python = worker(how={BAD: how})
    run = measured(python, time_limit=1)
    lost = run.cases[BAD]
    assert (lost.status, lost.error.type) == ("error", kind)
    assert lost.error.message.startswith(message)
    assert "/" not in lost.error.message.replace("shift/", "")
    assert (lost.definition, lost.metrics) == (run.cases[SECOND].definition, {})
    assert [run.cases[name].status for name in (SECOND, OTHER)] == ["ok", "ok"]
    assert all_gone(processes(python))


def test_a_worker_lost_between_cases_is_replaced(worker):
    python = worker(how={f"after {BAD}": "exit", f"after {OTHER}": "kill"})
    run = measured(python)
    assert {record.status for record in run} == {"ok"}
    # None was measured twice.
    assert len(logged(python, "case")) == len(IDS)


def test_a_worker_that_an_earlier_case_left_unfit_is_replaced(worker):
    python = worker(how={f"after {OTHER}": "babble"})
    run = measured(python)
    assert {record.status for record in run} == {"ok"}
    assert len(processes(python)) == 2


def test_what_a_fresh_worker_refuses_is_no_record(worker):
    python = worker(how={f"before {BAD}": "refuse"})
    with pytest.raises(UnusableEnvironmentError, match=rf"{BAD}: .*HybridCache"):
        measured(python)
    assert all_gone(processes(python))


def test_a_forked_process_that_holds_the_pipe_open_hides_no_death(tmp_path):
    text = write_measuring_worker(tmp_path / "python", how={BAD: "kill"})
    path = Path(text)
    script = path.read_text().replace(
        'log("case", request)', 'log("case", request)\n    if os.fork() == 0: time.sleep(30)'
    )
    before = time.monotonic()
    run = measured(write_program(path, script), cases=CASES[:1])
    assert time.monotonic() - before < 10
    assert "SIGKILL" in run.cases[BAD].error.message


# --- environments that are of no use -------------------------------------------------------------


def test_an_environment_in_which_peft_does_not_import_says_what_python_says(worker):
    python = worker(how={"import": "refuse"})
    with pytest.raises(UnusableEnvironmentError, match="ImportError: cannot import name 'Hybrid"):
        measured(python)
    assert all_gone(processes(python))


@pytest.mark.parametrize("how", ["kill", "exit", "babble", "hang"])
@pytest.mark.parametrize("at", ["import", "greeting"])
def test_a_worker_lost_at_its_start_makes_the_environment_unusable(worker, at, how):
    python = worker(how={at: how})
    if (at, how) == ("greeting", "babble"):
        # What a start-up file prints.
        assert len(measured(python).cases) == len(IDS)
        return
    with pytest.raises(UnusableEnvironmentError):
        measured(python, time_limit=1)
    assert all_gone(processes(python))


def test_packages_that_change_meanwhile_are_no_run(worker, tmp_path):
    python = worker(how={BAD: "kill"})
    script = (
        Path(python)
        .read_text()
        .replace("packages=script", 'packages={"pid": str(os.getpid())} or script')
    )
    with pytest.raises(UnusableEnvironmentError, match="packages changed"):
        measured(write_program(Path(python), script))
    assert all_gone(processes(python))


def test_a_package_that_is_not_the_installed_one_is_refused(tmp_path):
    """As where PYTHONPATH has a checkout of peft: the versions would be said of other code."""
    installed = tmp_path / "lib" / "python3.11" / "site-packages" / "peft"
    installed.mkdir(parents=True)
    own = installed / "__init__.py"
    own.touch()
    (tmp_path / "bin").mkdir()
    write_measuring_worker(tmp_path / "bin" / "python", file=str(own))
    measured(str(tmp_path / "bin" / "python"))
    write_measuring_worker(tmp_path / "bin" / "python", file="/checkout/peft/__init__.py")
    with pytest.raises(UnusableEnvironmentError, match=r"/checkout/peft.*unset PYTHONPATH"):
        measured(str(tmp_path / "bin" / "python"))


# --- interruptions -------------------------------------------------------------------------------


def test_what_fails_here_ends_every_worker_and_rescues_what_there_is(worker):
    python = worker(how={SECOND: "hang"})
    rescued = []

    def tell(record):
        if record.case.id == BAD:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(python, tell=tell, rescue=rescued.append, cases=CASES[:2])
    (run,) = rescued
    assert (list(run.cases), run.selection.narrowed_by) == ([BAD], ["interrupted"])
    assert all_gone(processes(python))


@pytest.fixture
def interruptible():
    """Let Ctrl-C interrupt, which a run in the background is started to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("at", [SECOND, "greeting", "import"])
def test_an_interrupt_ends_every_process_within_seconds(worker, interruptible, at):
    python = worker(how={at: "hang"})
    rescued = []

    def interrupt():
        while not Path(f"{python}.log").exists() or not logged(python, "child"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measured(python, jobs=2, rescue=rescued.append, cases=CASES[:2])
    thread.join()
    assert time.monotonic() - before < 8
    assert [list(run.cases) for run in rescued] == ([[BAD]] if at == SECOND else [])
    assert all_gone(processes(python))


_UPGRADE = """
import contextlib, dataclasses, sys
from pathlib import Path
from peft_regress.environments.upgrade import upgrade as upgrading
from peft_regress.cli.main import main

@dataclasses.dataclass
class Overlay:
    python: Path
    packages: dict = dataclasses.field(default_factory=dict)
    planned: tuple = ()
    remarks: tuple = ()

@contextlib.contextmanager
def opened(*_, **__):
    yield Overlay(Path({python!r}))

upgrading.opened_overlay = opened
main(sys.argv[1:])
"""


def start_upgrade(python: str, *options: str, **streams) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _UPGRADE.format(python=python), "upgrade", "peft==0.14.0"]
    base = ["--cases", "*/lora-r4/resnet18", "--base", "run", "--jobs", "1"]
    return subprocess.Popen(
        [*command, *base, *options],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # What was started in the background ignores an interruption, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        **streams,
    )


def test_an_interrupted_upgrade_is_exit_130_and_leaves_a_partial_run_file(worker, tmp_path):
    python = worker(how={SECOND: "hang"})
    save = tmp_path / "run.json"
    process = start_upgrade(python, "--save", str(save))
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if Path(f"{python}.log").exists() and logged(python, "child"):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert errors.endswith(b"interrupted\n")
    assert list(read_run_file(save).run.cases) == [BAD]
    assert all_gone(processes(python))


@pytest.mark.parametrize("output", ["text", "json", "markdown"])
def test_a_reader_that_has_gone_is_exit_2(worker, output):
    read, write = os.pipe()
    os.close(read)
    # A base that is there: the current environment would be measured for real.
    process = start_upgrade(worker(), "--base", "0003", "--format", output, stdout=write)
    os.close(write)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"Traceback" not in errors
    assert b"[2/2] candidate" in errors


# --- the worker itself ---------------------------------------------------------------------------


@pytest.fixture
def tiny(clean_registry, tiny_sources):
    registry.add("architecture", TinyArchitecture())
    return tiny_sources


TINY = Case(task="shift", method="lora", architecture="tiny", rank=4)


def test_the_worker_tells_where_modules_came_from():
    (answer,) = answers_to(Import(modules=["json"]))
    assert isinstance(answer, Imported)
    assert answer.files["json"].endswith("json/__init__.py")


def test_without_training_a_record_has_costs_alone_and_can_be_stored(tiny, tmp_path):
    request = Measure(case=TINY.id, baselines=str(tiny), trains=False)
    started, told = answers_to(request)
    assert isinstance(started, Started)
    assert isinstance(told, Measured)
    record = told.record
    names = {name.removesuffix("_b32") for name in record.metrics}
    assert {"backward_flops", "trainable_params", "adapter_bytes"} <= names
    assert names <= {*COST_METRICS, "trainable_params", "total_params", "adapter_bytes"}
    assert (record.status, record.invariants) == ("ok", {})
    upgrading._save(tmp_path / "run.json", make_run(record))
    assert read_run_file(tmp_path / "run.json").run.cases == {TINY.id: record}
    trained = measure(Recipe.of(TINY, tiny), profiles=ProfileCache(), timed=False).record
    assert {name: trained.metrics[name] for name in record.metrics} == record.metrics


def test_what_breaks_the_measuring_itself_is_the_case_s_failure(tiny, monkeypatch):
    from peft_regress.measure import case as module

    def broken(*_):
        raise AttributeError("no scaling")

    monkeypatch.setattr(module, "step_ledger", broken)
    _, told = answers_to(Measure(case=TINY.id, baselines=str(tiny), trains=False))
    assert isinstance(told, Failed)
    assert (told.failure.type, told.failure.message) == ("AttributeError", "no scaling")


@pytest.mark.slow
def test_a_real_worker_measures_what_this_process_does():
    case = parse_case_id("shift/head/shufflenet_v2_x0_5")
    run = measured(sys.executable, cases=[case], time_limit=300)
    baselines = ROOT / "baselines"
    here = measure(Recipe.of(case, baselines), profiles=ProfileCache(), timed=False).record
    assert run.cases == {case.id: here}
