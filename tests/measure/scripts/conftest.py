"""A process that forks for each script to watch, and the script that most tests run."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest
from watched_scripts import START

from peft_regress.measure.scripts.observation import WatchedScript, WatchRequest


@pytest.fixture(scope="session")
def forks():
    program = Path(__file__).with_name("watched_forks.py")
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def watch(forks, tmp_path):
    """Return a function that runs the text of a script, after `START`, and returns what is seen.

    It keeps the exit code, and as `printed` the output; `alone` runs the same script unwatched.
    """

    def run(path):
        forks.stdin.write(f"{path}\n")
        forks.stdin.flush()
        watched.code = int(forks.stdout.readline())
        watched.printed = path.with_suffix(".out").read_text()

    def watched(text, *, start=START, args=(), **asked):
        script, request = tmp_path / "train.py", tmp_path / "request.json"
        answer = tmp_path / "answer"
        answer.unlink(missing_ok=True)
        script.write_text(dedent(start) + dedent(text))
        made = WatchRequest(script=str(script), args=args, answer=str(answer), **asked)
        request.write_bytes(msgspec.json.encode(made))
        run(request)
        return msgspec.msgpack.decode(answer.read_bytes(), type=WatchedScript)

    watched.alone = lambda: run(tmp_path / "train.py")
    return watched
