"""The command `measure`: cases to a run file that the gate takes, whatever ends it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import cases_in, make_record, make_run, write_run
from fake_interpreters import all_gone, logged, processes_of, wait_until, write_worker

from peft_regress.baselines.run_adapters import adapters_of_run
from peft_regress.runs.journal import journal_of
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
GLOB = "*/lora-r4/resnet18"
IDS = ["shift/lora-r4/resnet18", "unseen/lora-r4/resnet18"]
FIRST, SECOND = IDS
SUITE = "benchmarks/test_distribution_shift.py"


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Let another program stand in for this interpreter."""

    def write(**options):
        monkeypatch.setattr(sys, "executable", PYTHON)  # in whose name the program is written
        python = write_worker(tmp_path / "python", **options)
        monkeypatch.setattr(sys, "executable", python)
        return python

    return write


@pytest.fixture
def measure(command, tmp_path):
    """Call the command and return (exit code, stdout, stderr)."""

    def call(*words, cases=GLOB, save=tmp_path / "run.json"):
        storage = ["--baselines", str(ROOT / "baselines")]
        return command("measure", "--cases", cases, "--jobs", 1, "--save", save, *storage, *words)

    return call


def test_each_case_has_a_record_in_a_run_that_the_gate_takes(worker, measure, command, tmp_path):
    worker()
    code, out, err = measure()
    assert (code, out) == (0, f"{tmp_path}/run.json: 2 cases\n")
    assert err == f"[1/2] {FIRST}\n[2/2] {SECOND}\n"
    run = read_run_file(tmp_path / "run.json").run
    assert sorted(run.cases) == IDS
    assert run.selection.narrowed_by == [f"--cases {GLOB}"]
    assert not journal_of(tmp_path / "run.json").exists()
    records = (make_record(name, {"forward_flops": 1}) for name in IDS)
    base = write_run(tmp_path / "base.json", make_run(*records))
    code, out, _ = command("compare", base, tmp_path / "run.json")
    assert code == 1
    assert "forward_flops" in out


def test_a_case_in_error_is_data_and_its_count_is_shown(worker, measure, tmp_path):
    worker(how={FIRST: "kill"})
    code, out, err = measure("--resume", "nowhere/a.json")
    assert (code, out) == (0, f"{tmp_path}/run.json: 2 cases, 1 in error\n")
    assert "resuming nowhere/a.json: 0 records" in err
    assert f"[1/2] {FIRST} error (WorkerLost: its worker was killed by SIGKILL" in err


def test_what_an_earlier_try_measured_is_taken_with_its_adapters(worker, measure, tmp_path):
    python = worker()
    assert measure(cases=FIRST, save=tmp_path / "old.json")[0] == 0
    kept = adapters_of_run(tmp_path / "old.json") / "any"
    kept.mkdir(parents=True)
    (kept / "weights").write_text("kept")
    code, _, err = measure("--resume", str(tmp_path / "old.json"))
    assert code == 0
    assert "1 case taken, 1 measured" in err
    assert [request["case"] for _, request in logged(python, "measure")] == IDS
    assert sorted(read_run_file(tmp_path / "run.json").run.cases) == IDS
    assert (adapters_of_run(tmp_path / "run.json") / "any" / "weights").read_text() == "kept"


def test_a_run_that_cannot_be_written_is_said_and_its_journal_stays(
    worker, measure, tmp_path, monkeypatch
):
    from peft_regress.errors import InputError
    from peft_regress.runner import measuring

    def full(*_):
        raise InputError("run.json: cannot be written (No space left on device)")

    worker()
    monkeypatch.setattr(measuring, "write_run_file", full)
    code, _, err = measure()
    assert code == 2
    assert "No space left on device" in err
    assert "--resume" in err
    assert cases_in(journal_of(tmp_path / "run.json")) == set(IDS)


_MEASURE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.executable = {python!r}
from peft_regress.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured_and_leaves_no_process(
    worker, measure, tmp_path, number
):
    python = worker(how={SECOND: "hang"})
    code = _MEASURE.format(python=python)
    save = tmp_path / "run.json"
    words = ["--cases", GLOB, "--jobs", "1", "--save", str(save)]
    command = [PYTHON, "-c", code, "measure", *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    kept = journal_of(save)
    wait_until(lambda: logged(python, "child") and kept.exists() and b"\n" in kept.read_bytes())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in err
    assert sorted(read_run_file(save).run.cases) == [FIRST]
    assert all_gone(processes_of(python))
    worker()
    before = len(logged(python, "measure"))
    code, _, err = measure("--resume", str(save))
    assert code == 0, err
    assert [request["case"] for _, request in logged(python, "measure")[before:]] == [SECOND]


@pytest.mark.nightly
def test_a_run_equals_that_of_pytest_but_for_times(measure, tmp_path):
    glob = "shift/lora-r4/shufflenet_v2_x0_5"
    by_pytest = tmp_path / "pytest.json"
    words = ["--regress-cases", glob, "--regress-save", str(by_pytest), "--benchmark-disable"]
    # Other than pytest, the command trains all seeds of a case that repeats its baseline.
    words.append("--regress-full")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE, *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert measure(cases=glob)[0] == 0
    ours, theirs = (read_run_file(p).run for p in (tmp_path / "run.json", by_pytest))
    assert ours.cases == theirs.cases
    assert (ours.environment, ours.machine) == (theirs.environment, theirs.machine)
    assert ours.selection.not_selected == theirs.selection.not_selected
