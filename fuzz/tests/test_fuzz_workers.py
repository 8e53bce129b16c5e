"""A worker that runs examples: its answers and its crashes."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from builders import MACHINE
from fuzz_examples import PACKAGES, example, finding

from peft_fuzz.search.messages import Seek
from peft_fuzz.search.replay import Replay
from peft_fuzz.search.workers import LifeWorker
from peft_regress.workers.pool import UnusableEnvironmentError
from peft_regress.workers.process import RequestRefusedError, WorkerError
from peft_regress.workers.serve import PROTOCOL

FAKE = """#!PYTHON -IS
import json, os, signal, sys, time
def say(**line):
    print(json.dumps(line), flush=True)
say(type="hello", protocol=PROTOCOL, packages={})
for line in sys.stdin:
    kind = json.loads(line)["function"].partition(":")[2]
    how = HOW
    if kind == "import_modules":
        if how == "broken":
            say(refused="ImportError: cannot import name 'HybridCache'")
        else:
            say(answer=dict(machine=MACHINE, files=dict(peft="/elsewhere/peft/__init__.py")))
        continue
    if kind == "begin":
        say(answer=dict(absent=[], packages=PACKAGES))
        continue
    if kind == "seek":
        with open("in_progress.json", "w") as file:
            file.write(EXAMPLE)
    if how == "hang":
        time.sleep(600)
    elif how == "refuse":
        say(refused="KeyError: 'x'")
    elif how == "once" and kind == "live":
        say(answer=dict(outcome={}))
    else:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def fake(tmp_path):
    def make(how: str) -> Path:
        path = tmp_path / "env" / "bin" / "python"
        path.parent.mkdir(parents=True)
        values = {
            "PYTHON": sys.executable,
            "PROTOCOL": str(PROTOCOL),
            "HOW": repr(how),
            "PACKAGES": repr(PACKAGES),
            "MACHINE": repr(msgspec.to_builtins(MACHINE)),
            "EXAMPLE": repr(msgspec.json.encode(example()).decode()),
        }
        text = FAKE
        for name, value in values.items():
            text = text.replace(name, value)
        path.write_text(text)
        path.chmod(0o755)
        return path

    return make


SEEK = Seek(methods=("lora",), seed=1, seconds=0.2, shrink_seconds=0.1)


def test_an_example_that_ends_the_process_again_is_a_finding(fake) -> None:
    with LifeWorker(fake("crash"), ["lora"]) as worker:
        sought = worker.seek(SEEK)
        assert sought.found.example == example()
        assert sought.found.failure.check == "crash"
        assert sought.found.cause.error == "SIGSEGV"
        known = msgspec.structs.replace(SEEK, known=(sought.found.cause,))
        assert worker.seek(known).found is None


def test_an_example_that_ended_the_process_once_is_counted(fake) -> None:
    with LifeWorker(fake("once"), ["lora"]) as worker:
        sought = worker.seek(SEEK)
    assert sought.found is None
    assert sought.counts.unsteady == {"lora": 1}


def test_a_life_that_does_not_end_is_a_finding(fake) -> None:
    with LifeWorker(fake("hang"), ["lora"], life_seconds=0.3) as worker:
        failure = worker.live(example()).failure
    assert (failure.check, failure.error) == ("crash", "TimeoutError")
    assert "0.3 s" in failure.message


def test_a_refused_request_is_no_finding(fake) -> None:
    with LifeWorker(fake("refuse"), ["lora"]) as worker, pytest.raises(RequestRefusedError):
        worker.seek(SEEK)


def test_a_release_that_does_not_import_says_so(fake) -> None:
    python = fake("broken")
    with pytest.raises(UnusableEnvironmentError, match="HybridCache"):
        Replay(findings=[finding()]).run(python)


def test_another_peft_than_the_installed_one_is_refused(fake) -> None:
    python = fake("crash")
    installed = python.parent.parent / "lib/python3.11/site-packages/peft"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    with pytest.raises(UnusableEnvironmentError, match="unset PYTHONPATH"):
        Replay(findings=[finding()]).run(python)


def test_an_entry_that_is_not_replayed_does_not_stop_the_others(fake) -> None:
    done = Replay(findings=[finding(), finding()])
    done.run(fake("refuse"))
    assert [one.state for one in done.entries] == ["not replayed", "not replayed"]


def test_a_stopped_worker_ends_at_once(fake) -> None:
    with LifeWorker(fake("hang"), ["lora"]) as worker:
        worker.begin()
        threading.Timer(0.3, worker.stop).start()
        started = time.monotonic()
        with pytest.raises(WorkerError):
            worker.live(example())
        assert time.monotonic() - started < 5
        with pytest.raises(WorkerError):
            worker.live(example())


@pytest.mark.slow
def test_a_worker_searches_the_installed_peft() -> None:
    with LifeWorker(Path(sys.executable), ["lora", "no such method"]) as worker:
        begun = worker.begin()
        assert begun.absent == ("no such method",)
        assert "peft" in begun.packages
        sought = worker.seek(Seek(methods=("lora",), seed=1, seconds=5.0, shrink_seconds=5.0))
        assert sought.counts.lives["lora"] > 10
        assert not sought.problem
        outcome = worker.live(example())
        assert outcome.failure is None
        assert outcome.acts == 2
    assert not worker._seat.folder.exists()
