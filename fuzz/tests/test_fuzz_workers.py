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

from peft_fuzz.search.fuzz import environment_of
from peft_fuzz.search.replay import Replay
from peft_fuzz.search.worker import Begin, Live, Seek, begin, live, search
from peft_regress.workers.pool import Seat, UnusableEnvironmentError
from peft_regress.workers.serve import PROTOCOL
from peft_regress.workers.worker import RequestRefusedError, WorkerError

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
    if kind == "begun":
        say(answer=dict(absent=[], packages=PACKAGES))
        continue
    if kind == "sought":
        with open(json.loads(line)["request"]["folder"] + "/in_progress.json", "w") as file:
            file.write(EXAMPLE)
    if how == "hang":
        time.sleep(600)
    elif how == "refuse":
        say(refused="KeyError: 'x'")
    elif how == "once" and kind == "lived":
        say(answer=dict())
    else:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def fake(tmp_path):
    def make(how):
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
LIVE = Live(example=example())


@pytest.fixture
def seat(tmp_path):
    made = Seat(tmp_path, time_limit=60)
    yield made
    made.close()


def test_an_example_that_ends_the_process_again_is_a_finding(fake, seat):
    there = environment_of(fake("crash"))
    sought = search(seat, there, SEEK)
    assert sought.found.example == example()
    assert sought.found.failure.check == "crash"
    assert sought.found.cause.error == "SIGSEGV"
    known = msgspec.structs.replace(SEEK, known=(sought.found.cause,))
    assert search(seat, there, known).found is None


def test_an_example_that_ended_the_process_once_is_counted(fake, seat):
    sought = search(seat, environment_of(fake("once")), SEEK)
    assert sought.found is None
    assert sought.counts.unsteady == {"lora": 1}


def test_a_life_that_does_not_end_is_a_finding(fake, seat):
    short = msgspec.structs.replace(LIVE, life_seconds=0.3)
    failure = live(seat, environment_of(fake("hang")), short).failure
    assert (failure.check, failure.error) == ("crash", "TimeoutError")
    assert "0.3 s" in failure.message


def test_a_refused_request_is_no_finding(fake, seat):
    with pytest.raises(RequestRefusedError):
        search(seat, environment_of(fake("refuse")), SEEK)


def test_a_release_that_does_not_import_says_so(fake):
    with pytest.raises(UnusableEnvironmentError, match="HybridCache"):
        Replay(findings=[finding()]).run(environment_of(fake("broken")))


def test_a_stopped_worker_ends_at_once(fake, seat):
    there = environment_of(fake("hang"))
    threading.Timer(0.3, seat.stop).start()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(WorkerError):
            live(seat, there, LIVE)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_worker_searches_the_installed_peft(seat):
    here = environment_of(Path(sys.executable))
    begun = begin(seat, here, Begin(methods=("lora", "no such method")))
    assert begun.absent == ("no such method",)
    assert "peft" in begun.packages
    asked = Seek(methods=("lora",), seed=1, seconds=5.0, shrink_seconds=5.0)
    sought = search(seat, here, asked)
    assert sought.counts.lives["lora"] > 10
    assert not sought.problem
    outcome = live(seat, here, LIVE)
    assert outcome.failure is None
    assert outcome.acts == 2
