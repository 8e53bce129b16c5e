"""A worker that runs examples: its answers and its crashes."""

import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from fake_interpreters import write_worker
from fuzz_examples import PACKAGES, example, finding

from peft_fuzz.search.fuzz import environment_of
from peft_fuzz.search.replay import Replay
from peft_fuzz.search.worker import Begin, Live, Seek, begin, live, search
from peft_regress.workers.pool import Seat, UnusableEnvironmentError
from peft_regress.workers.worker import RequestRefusedError, WorkerError


@pytest.fixture
def fake(tmp_path):
    """Write a worker that leaves an example behind when it searches, and misbehaves as asked."""

    def make(**how):
        folder = tmp_path / "env" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        worker = write_worker(
            folder / "python",
            how=how,
            answers={"begun": {"absent": [], "packages": PACKAGES}, "lived": {}},
            leaves={"sought": msgspec.json.encode(example()).decode()},
        )
        return environment_of(Path(worker))

    return make


SEEK = Seek(methods=("lora",), seed=1, seconds=0.2, shrink_seconds=0.1)
LIVE = Live(example=example())


@pytest.fixture
def seat(tmp_path):
    made = Seat(tmp_path, time_limit=60)
    yield made
    made.close()


def test_an_example_that_ends_the_process_again_is_a_finding_and_once_is_counted(fake, seat):
    there = fake(sought="crash", lived="crash")
    sought = search(seat, there, SEEK)
    assert sought.found.example == example()
    assert sought.found.failure.check == "crash"
    assert sought.found.cause.error == "SIGSEGV"
    known = msgspec.structs.replace(SEEK, known=(sought.found.cause,))
    assert search(seat, there, known).found is None
    sought = search(seat, fake(sought="crash"), SEEK)
    assert (sought.found, sought.counts.unsteady) == (None, {"lora": 1})


def test_a_life_that_does_not_end_is_a_finding_and_a_refused_request_is_none(fake, seat):
    short = msgspec.structs.replace(LIVE, life_seconds=0.3)
    failure = live(seat, fake(lived="hang"), short).failure
    assert (failure.check, failure.error) == ("crash", "TimeoutError")
    assert "0.3 s" in failure.message
    with pytest.raises(RequestRefusedError):
        search(seat, fake(sought="refuse"), SEEK)


def test_a_release_that_does_not_import_says_so(fake):
    with pytest.raises(UnusableEnvironmentError, match="HybridCache"):
        Replay(findings=[finding()]).run(fake(import_modules="refuse"))


def test_a_stopped_worker_ends_at_once(fake, seat):
    there = fake(lived="hang")
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
