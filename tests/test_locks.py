"""Locks: waiting for one ends."""

import signal
import subprocess
import sys
import time

import pytest

from peft_regress.errors import InputError
from peft_regress.locks import opened_lock

HOLD = """
import sys
from pathlib import Path
from peft_regress.locks import opened_lock
with opened_lock(Path(sys.argv[1])) as lock:
    lock.own()
    print("held", flush=True)
    input()
"""


@pytest.fixture
def held(tmp_path):
    """A process that owns a lock until it reads a line."""
    command = (sys.executable, "-c", HOLD, tmp_path / "lock")
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.kill()
    holder.communicate()


def test_a_lock_that_stays_held_is_given_up(tmp_path, held, capsys):
    held.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    message = r"lock: locked by another process for 2 seconds\. Wait"
    with opened_lock(tmp_path / "lock", patience=1.5) as lock:
        with pytest.raises(InputError, match=message) as refused:
            lock.own()
        assert not lock.own_now()
    assert 1.5 <= time.monotonic() - started < 30
    assert str(refused.value).isprintable()
    err = capsys.readouterr().err
    assert err == f"waiting for {tmp_path / 'lock'}, locked by another process\n"


def test_a_lock_is_free_once_its_holder_is_killed(tmp_path, held, capsys):
    held.kill()
    held.communicate()
    with opened_lock(tmp_path / "lock") as lock:
        lock.own()
    assert capsys.readouterr().err == ""
