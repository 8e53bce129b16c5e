"""Two interpreters taking turns: what is asked of them, and all that can go wrong with them."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from fake_interpreters import all_gone, pids_of, write_program, write_worker
from slow_interpreter import write_slow_interpreter
from tiny_architecture import TinyArchitecture

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.environments.timing import time_cases
from peft_regress.environments.timing.messages import (
    Answer,
    Block,
    Prepare,
    Prepared,
    Restart,
    Timed,
)
from peft_regress.environments.timing.time_cases import BLOCK_STEPS, LAUNCHES, turns
from peft_regress.environments.timing.timing_worker import TimingWorker
from peft_regress.environments.timing.worker import answer_requests
from peft_regress.environments.worker.messages import Hello
from peft_regress.environments.worker.process import InterpreterError, WorkerError
from peft_regress.errors import InputError
from peft_regress.measure.training import STEPS

ROOT = Path(__file__).parents[2]
CASE = parse_case_id("shift/head/shufflenet_v2_x0_5")


def timed(base: str, candidate: str, *, cases=(CASE,), **options):
    options = {"baselines": ROOT / "baselines", "time_limit": 20, **options}
    return time_cases(list(cases), base=base, candidate=candidate, **options)


def gone(*paths: str) -> bool:
    return all_gone(pid for path in paths for pid in pids_of(path))


# --- the turns ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_of_two_pairs_each_side_goes_first_once(seed):
    order = turns(30, draw=random.Random(seed))
    assert all(order[n] != order[n + 1] for n in range(0, 30, 2))
    assert len(turns(7, draw=random.Random(seed))) == 7


def test_a_block_is_half_of_the_brief_fine_tune():
    assert 2 * BLOCK_STEPS == STEPS


def test_equal_interpreters_are_the_same_and_a_slower_one_is_slower(tmp_path):
    base, other = write_worker(tmp_path / "a"), write_worker(tmp_path / "b")
    slow = write_worker(tmp_path / "c", seconds=0.0111, packages={"peft": "0.14.0"})
    assert timed(base, other).exit_code == 0
    run = timed(base, slow)
    (case,) = run.cases
    assert (case.verdict, run.exit_code) == ("slower", 1)
    assert case.estimate.ratio == pytest.approx(1.11, abs=0.02)
    assert run.candidate_packages == {"peft": "0.14.0"}
    assert timed(slow, base).cases[0].verdict == "faster"


def test_workers_are_fresh_for_each_launch_and_gone_at_the_end(tmp_path):
    worker = write_worker(tmp_path / "python")
    run = timed(worker, worker, cases=(CASE, parse_case_id("shift/head/resnet18")))
    assert {case.estimate.confidence for case in run.cases} == {0.975}
    pids = pids_of(worker)
    assert len(pids) == len(set(pids)) == 2 + 2 * 2 * LAUNCHES
    assert gone(worker)


@pytest.mark.parametrize("pairs", [6, 7, 30, 31])
def test_as_many_pairs_are_measured_as_were_asked_for(tmp_path, pairs):
    worker = write_worker(tmp_path / "python")
    assert timed(worker, worker, pairs=pairs).cases[0].estimate.pairs == pairs


def test_too_few_pairs_for_any_interval_are_refused_with_the_least_number(tmp_path):
    with pytest.raises(InputError, match=r"5 pairs .* --pairs 6 is the least"):
        timed(write_worker(tmp_path / "python"), "never started", pairs=5)


def test_no_case_at_all_is_refused():
    with pytest.raises(InputError, match="no case"):
        timed("a", "b", cases=())


# --- interpreters that cannot be used --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (None, None, "there is no such program"),
        ("", 0o644, "is not executable"),
        ("no program", 0o755, "cannot be started"),
        ("#!/nowhere/python\n", 0o755, "cannot be started"),
        ("#!/bin/sh\nexit 3\n", 0o755, "it said nothing"),
        ("#!/bin/sh\necho 'No module named peft_regress' >&2; exit 1\n", 0o755, "No module named"),
        ("#!/bin/sh\nexec sleep 60\n", 0o755, "no greeting .* within 1 s"),
        ("#!/bin/sh\nexec yes\n", 0o755, "no greeting .* within 1 s"),
        ("#!/bin/sh\nexec cat /dev/zero\n", 0o755, "no greeting"),
    ],
)
def test_what_is_no_interpreter_with_a_worker_is_refused_with_its_path(
    tmp_path, text, mode, message
):
    path = tmp_path / "python"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(InterpreterError, match=message) as refused:
        timed(write_worker(tmp_path / "base"), str(path), time_limit=1)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(("name", "message"), [("", "no name"), ("/", "is a folder")])
def test_a_name_that_is_none_is_refused(name, message):
    with pytest.raises(InterpreterError, match=message):
        timed(name, name)


def test_another_protocol_is_refused_with_both_and_what_to_install(tmp_path):
    worker = write_worker(tmp_path / "python", protocol=2)
    with pytest.raises(InterpreterError, match=r"0\.1\.0 speaks protocol 2.*pip install \."):
        timed(worker, worker)


def test_an_interpreter_without_the_package_is_refused_with_what_to_install(tmp_path):
    bare = write_program(
        tmp_path / "python", f'#!/bin/sh\nPYTHONPATH= exec {sys.executable} -S "$@"\n'
    )
    with pytest.raises(InterpreterError, match=r"No module named .*`.*python -m pip install \.`"):
        timed(bare, bare)


# --- cases that cannot be timed --------------------------------------------------------------


@pytest.mark.parametrize("at", ["prepare", "restart", "block"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("die", "ended with exit code 1: ImportError: the library is broken"),
        ("kill", "was killed by SIGKILL"),
        ("refuse", "ValueError: no such layer"),
        ("babble", "its worker answered 'Epoch 1'"),
        ("hang", "no answer within 1 s; allow more with --time-limit"),
    ],
)
def test_a_worker_that_fails_is_a_failed_case_and_never_a_pass(tmp_path, at, how, message):
    base, bad = write_worker(tmp_path / "a"), write_worker(tmp_path / "b", **{at: how})
    run = timed(base, bad, time_limit=1)
    (case,) = run.cases
    assert (case.verdict, run.exit_code) == ("failed", 3)
    assert message in case.problem
    assert bad in case.problem
    assert gone(base, bad)


def test_a_time_that_is_none_is_a_failed_case(tmp_path):
    worker = write_worker(tmp_path / "a", block=0.0)
    assert "no time" in timed(worker, worker).cases[0].problem


def test_cases_defined_otherwise_are_incomparable(tmp_path):
    other = write_worker(tmp_path / "b", definition="sha256:other")
    run = timed(write_worker(tmp_path / "a"), other)
    assert (run.cases[0].verdict, run.exit_code) == ("incomparable", 3)
    assert other in run.cases[0].problem


def test_a_worker_is_ended_with_all_that_it_started(tmp_path):
    path = write_worker(tmp_path / "python", prepare="hang")
    with TimingWorker(path, time_limit=1) as worker, pytest.raises(WorkerError):
        worker.prepare("case", baselines=tmp_path)
    assert len(pids_of(path)) == 2
    assert gone(path)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_an_interruption_leaves_no_process_behind(tmp_path, sent, code):
    how = {"block": "hang"} if sent == signal.SIGINT else {}
    path = write_worker(tmp_path / "python", **how)
    command = [sys.executable, "-m", "peft_regress", "time", path, path, "--cases", CASE.id]
    process = subprocess.Popen(
        [*command, "--pairs", "9999"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # What was started in the background ignores an interruption, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (
            Path(f"{path}.pids").exists() and len(pids_of(path)) >= 4
        ):
            time.sleep(0.05)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert gone(path)


# --- the worker itself -----------------------------------------------------------------------


def answers_of(*requests) -> list[Answer]:
    lines = b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
    answers = io.BytesIO()
    answer_requests(io.BytesIO(lines), answers)
    return [
        msgspec.json.decode(line, type=Hello | Answer)
        for line in answers.getvalue().strip().splitlines()
    ]


@pytest.fixture
def tiny(clean_registry, tiny_sources):
    registry.add("architecture", TinyArchitecture())
    return str(tiny_sources)


def test_the_worker_takes_the_steps_of_the_brief_fine_tune(tiny):
    case = Case(task="shift", method="lora", architecture="tiny", rank=4)
    hello, prepared, _, first, second, beyond = answers_of(
        Prepare(case=case.id, baselines=tiny), Restart(seed=0), *[Block(steps=BLOCK_STEPS)] * 3
    )
    from peft_regress.measure import Recipe, define

    assert hello.packages["torch"]
    assert prepared == Prepared(definition=define(Recipe.of(case, Path(tiny))))
    assert len(first.step_seconds) == len(second.step_seconds) == BLOCK_STEPS
    assert all(seconds > 0 for seconds in first.step_seconds + second.step_seconds)
    assert beyond == Timed(step_seconds=[])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Prepare(case="shift/lroa-r4/tiny", baselines="."), "Did you mean 'lora'"),
        (Prepare(case="shift/lora-r4/tiny", baselines="/nowhere"), "SourceError"),
        (Restart(seed=0), "AttributeError"),
    ],
)
def test_what_the_worker_cannot_do_is_an_answer(tiny, request_, error):
    assert error in answers_of(request_)[1].error


def test_what_a_library_prints_does_not_disturb_the_answers(tmp_path):
    """Printed from Python and by the descriptor, at start and later."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        'print(\'{"type": "hello"}\')\n'
        "class Noisy:\n"
        "    def find_spec(self, name, *rest):\n"
        "        print('importing', name); os.write(1, b'noise'); return None\n"
        "sys.meta_path.insert(0, Noisy())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    noisy = write_program(
        tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n'
    )
    with TimingWorker(noisy, time_limit=60) as worker:
        worker.prepare(CASE.id, baselines=ROOT / "baselines")
        worker.restart(seed=0)
        assert len(worker.time_block(steps=2)) == 2


# --- the whole of it -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("share", "verdict"), [(0.0, "same"), (0.1, "slower")])
def test_a_step_10_percent_slower_is_found_and_an_equal_one_is_quiet(tmp_path, share, verdict):
    slow = str(write_slow_interpreter(tmp_path, share=share))
    run = timed(sys.executable, slow, time_limit=120)
    assert run.cases[0].verdict == verdict, run
