"""Two interpreters are timed in turns: the order, the requests, and what can go wrong."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_interpreters import (
    all_gone,
    logged,
    processes_of,
    wait_until,
    write_program,
    write_worker,
)
from slow_interpreter import write_slow_interpreter

from peft_regress import processes
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.measure import Recipe, define
from peft_regress.project.project import current_project
from peft_regress.runner.measurer import CaseRequest, Measurer
from peft_regress.upgrades import timing
from peft_regress.upgrades.timing import BLOCK_STEPS, LAUNCH_PAIRS, time_cases
from peft_regress.workers import worker as process_module
from peft_regress.workers.worker import InterpreterError, WorkerProcess

ROOT = Path(__file__).parents[2]
CASE = parse_case_id("shift/head/shufflenet_v2_x0_5")


def timed(base, candidate, *, cases=(CASE,), **options):
    how = {"base": base, "candidate": candidate, "project": current_project(), "pairs": 24}
    how |= {"baselines": ROOT / "baselines", "time_limit": 120, **options}
    return time_cases(list(cases), **how)


def gone(*paths):
    return all_gone(process for path in paths for process in processes_of(path))


def test_a_slower_interpreter_is_slower_and_a_faster_one_faster(tmp_path):
    base = write_worker(tmp_path / "a")
    slow = write_worker(tmp_path / "c", seconds=0.0111, packages={"peft": "0.14.0"})
    run = timed(base, slow)
    (case,) = run.cases
    assert case.estimate.pairs == 24
    assert (case.verdict, run.exit_code) == ("slower", 1)
    assert case.estimate.ratio == pytest.approx(1.11, abs=0.02)
    assert run.candidate_packages == {"peft": "0.14.0"}
    assert timed(slow, base).cases[0].verdict == "faster"


def test_workers_are_fresh_for_each_whole_launch_and_gone_at_the_end(tmp_path):
    worker = write_worker(tmp_path / "python")
    cases = (CASE, parse_case_id("shift/head/resnet18"))
    run = timed(worker, worker, cases=cases, pairs=25)
    assert {(case.estimate.confidence, case.estimate.pairs) for case in run.cases} == {(0.975, 28)}
    assert ({case.verdict for case in run.cases}, run.exit_code) == ({"same"}, 0)
    assert len(processes_of(worker)) == 2 + 2 * 2 * 28 // LAUNCH_PAIRS
    assert gone(worker)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (None, None, "cannot be started: No such file or directory"),
        ("", 0o644, "cannot be started: Permission denied"),
        ("no program", 0o755, "cannot be started"),
        ("#!/bin/sh\nexit 3\n", 0o755, "no error message"),
        ("#!/bin/sh\necho 'No module named peft_regress' >&2; exit 1\n", 0o755, "No module named"),
        (f'#!/bin/sh\nPYTHONPATH= exec {sys.executable} -S "$@"\n', 0o755,
         r"No module named.*python -m pip install \.`"),
    ],
)  # fmt: skip
def test_a_program_without_a_worker_is_refused_with_its_path(tmp_path, text, mode, message):
    path = tmp_path / "python"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(InterpreterError, match=message) as refused:
        timed(write_worker(tmp_path / "base"), str(path))
    assert str(path) in str(refused.value)


def test_a_program_that_never_greets_is_refused_at_the_time_limit(tmp_path):
    path = write_program(tmp_path / "python", "#!/bin/sh\nexec yes\n")
    with pytest.raises(InterpreterError, match=r"no greeting .* within 0\.5 s"):
        timed(path, path, time_limit=0.5)


def test_another_protocol_is_refused_with_both_and_what_to_install(tmp_path):
    worker = write_worker(tmp_path / "python", protocol=1)
    with pytest.raises(InterpreterError, match=r"0\.1\.0 has protocol 1.*pip install \."):
        timed(worker, worker)


@pytest.mark.parametrize(
    ("at", "how", "message"),
    [
        ("prepare", "exit",
         "ended with exit code 3: File /tmp/over/lay/peft/layer.py: ImportError"),
        ("time_steps", "kill", "was killed by SIGKILL"),
        ("prepare", "refuse", "ImportError: cannot import name 'HybridCache'"),
        ("time_steps", "refuse", "ImportError: cannot import name 'HybridCache'"),
        ("restart", "babble", "its worker answered 'Epoch 1'"),
        ("restart", "hang", "no answer within 120 s; allow more with --time-limit"),
        ("time_steps", "hang", "no answer within 120 s; allow more with --time-limit"),
    ],
)  # fmt: skip
def test_a_worker_that_fails_is_a_failed_case_and_never_a_pass(
    tmp_path, monkeypatch, at, how, message
):
    def now():
        """As soon as a worker hangs, its time limit is over."""
        hanging = sum(len(logged(file.with_suffix(""), "child")) for file in tmp_path.glob("*.log"))
        return time.monotonic() + 1000 * hanging

    for module in (process_module, processes):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
    base, bad = write_worker(tmp_path / "a"), write_worker(tmp_path / "b", how={at: how})
    run = timed(base, bad)
    (case,) = run.cases
    assert (case.verdict, run.exit_code) == ("failed", 3)
    assert message in case.problem
    assert bad in case.problem
    assert gone(base, bad)


def test_a_step_without_a_duration_is_a_failed_case(tmp_path, monkeypatch):
    monkeypatch.setattr(timing.paired_times, "fewest_launches", lambda _: 1)
    worker = write_worker(tmp_path / "a", seconds=0.0)
    assert "a time is positive and finite" in timed(worker, worker, pairs=4).cases[0].problem


def test_cases_with_different_definitions_are_incomparable(tmp_path):
    other = write_worker(tmp_path / "b", definition="sha256:other")
    run = timed(write_worker(tmp_path / "a"), other)
    assert (run.cases[0].verdict, run.exit_code) == ("incomparable", 3)
    assert other in run.cases[0].problem


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_an_interruption_leaves_no_process_behind(tmp_path, sent, code):
    # In the middle of an answer, and anywhere.
    how = {"time_steps": "hang"} if sent == signal.SIGINT else {}
    path = write_worker(tmp_path / "python", how=how)
    command = [sys.executable, "-m", "peft_regress", "time", path, path, "--cases", CASE.id]
    process = subprocess.Popen(
        [*command, "--pairs", "9999"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # A run in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        wait_until(lambda: len(processes_of(path)) >= 4)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert gone(path)


def test_the_worker_takes_the_steps_of_the_brief_fine_tune(tiny_root):
    case = Case(task="shift", method="lora", architecture="tiny", rank=4)
    stepper = Measurer()
    definition = stepper.prepare(CaseRequest(case=case.id, baselines=str(tiny_root)))
    assert definition == define(Recipe.of(case, tiny_root))
    stepper.restart(0)
    blocks = [stepper.time_steps(BLOCK_STEPS) for _ in range(3)]
    assert [len(block) for block in blocks] == [BLOCK_STEPS, BLOCK_STEPS, 0]
    assert all(seconds > 0 for block in blocks for seconds in block)


_NOISY = """
import os, sys

def restart(seed: int) -> str:
    print("a library prints")
    os.write(1, b"noise")
    assert sys.stdin.read() == ""
    return "heard"
"""


def test_what_a_library_prints_does_not_disturb_the_answers(tmp_path):
    """Neither from Python nor through the file descriptor, at the start or later."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nprint('{\"type\": \"hello\"}')\nos.write(1, b'unfinished')\n"
    )
    (tmp_path / "noisy.py").write_text(_NOISY)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    noisy = write_program(
        tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n'
    )
    with closing(WorkerProcess(noisy, time_limit=600)) as worker:
        for _ in range(2):
            assert worker.ask("noisy:restart", 0, str) == "heard"


@pytest.mark.nightly
@pytest.mark.parametrize(("share", "verdict"), [(0.0, "same"), (0.1, "slower")])
def test_a_step_10_percent_slower_is_found_and_an_equal_one_is_quiet(tmp_path, share, verdict):
    slow = str(write_slow_interpreter(tmp_path, share=share))
    run = timed(sys.executable, slow, pairs=60, time_limit=600)
    assert run.cases[0].verdict == verdict, run
