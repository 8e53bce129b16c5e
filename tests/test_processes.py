"""Processes end with all that they started, by themselves, at a deadline, and with their parent."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_interpreters import all_gone, wait_until

from peft_regress.processes import Process, variables

SECONDS = 60
"""Far more than any of these programs takes, and far less than they sleep."""
START = """
import os, signal, subprocess, sys, time

def note(pid):
    with open("pids", "a") as file:
        file.write(f"{pid}\\n")

def start(*words, **how):
    note(subprocess.Popen([*words], **how).pid)

note(os.getpid())
"""
DAEMON = "start('sleep', '600', start_new_session=True)\n"
FLOOD = "start(sys.executable, '-c', 'while True: print(end=1000 * chr(120))', **how)\n"
LEAVES = """
if os.fork():
    while len(open("pids").readlines()) < 3:
        time.sleep(0.01)
    os._exit(0)
os.setsid()
note(os.getpid())
"""
DEAF = """
for number in range(1, signal.NSIG):
    if number not in {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
        signal.signal(number, signal.SIG_IGN)
"""
NAPS = "time.sleep(600)\n"


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """Return a function that gives the processes that noted themselves."""
    monkeypatch.chdir(tmp_path)
    noted = tmp_path / "pids"
    return lambda: [int(line) for line in noted.read_text().split()] if noted.exists() else []


@pytest.mark.parametrize(
    ("text", "limit", "code"),
    [
        pytest.param(DAEMON, SECONDS, 0, id="a daemon holds the pipe"),
        pytest.param(FLOOD.replace("**how", "start_new_session=True"), SECONDS, 0, id="it floods"),
        pytest.param(LEAVES + DAEMON + NAPS, SECONDS, 0, id="the parent leaves"),
        pytest.param(DAEMON + NAPS, 0.5, None, id="a daemon at the limit"),
        pytest.param(LEAVES + DEAF + DAEMON + NAPS, SECONDS, 0, id="a deaf daemon of a daemon"),
        pytest.param(DEAF + NAPS, 0.5, None, id="deaf"),
        pytest.param("while True: print(end=1000 * 'x')\n", 0.5, None, id="flood without lines"),
        pytest.param("os.close(1); os.close(2)\n" + NAPS, 0.5, None, id="closed output"),
    ],
)
def test_a_process_ends_in_time_with_all_that_it_started(pids, text, limit, code):
    start = time.monotonic()
    words = [sys.executable, "-c", START + text]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with Process(words, env=variables(), **streams) as process:
        wait_until(pids)
        deadline = time.monotonic() + limit
        for _ in process.printed(deadline):
            pass
        assert process.ended(deadline) == code
    assert time.monotonic() < start + SECONDS
    assert all_gone(pids())


NESTED = """
from peft_regress.processes import Process, variables
depth = int(sys.argv[1])
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` lets all that it starts ignore it
if depth:
    words = [sys.executable, "-c", {text!r}, str(depth - 1)]
    with Process(words, env=variables()) as process:
        process.wait()
start("sleep", "600", start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_process_ends_with_the_one_that_started_it(pids, name):
    """A command, a worker, a script and its daemon; the text is read from a file, thus nested."""
    text = "exec(open('nested.py').read())"
    Path("nested.py").write_text(START + NESTED.format(text=text))
    with subprocess.Popen([sys.executable, "-c", text, "2"], env=variables()) as command:
        wait_until(lambda: len(pids()) == 4)
        command.send_signal(signal.Signals[name])
    assert command.returncode == -signal.Signals[name]
    assert all_gone(pids())


def test_the_variables_of_a_test_runner_are_left_out(monkeypatch):
    left_out = {"PYTEST_ADDOPTS", "COV_CORE_SOURCE", "PYTHONINSPECT"}
    for name in (*left_out, "KEPT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    found = variables()
    assert (found["KEPT"], found["PYTHONHASHSEED"]) == ("1", "0")
    assert found.keys().isdisjoint({"PYTEST_CURRENT_TEST", *left_out})
