"""Kill a process, or fill its disk, at any of the calls with which it changes files."""

import errno
import os

import pytest

_CHANGING = (
    *("chmod", "fsync", "ftruncate", "mkdir", "pwrite"),
    *("rename", "replace", "rmdir", "unlink"),
)
_FREEING = frozenset({"rmdir", "unlink"})
"""What a full disk allows."""

KILLED, FULL, FULL_ONCE = "killed", "full", "full once"
_KILLED_CODE = 77


class _Calls:
    """Counts changing calls; at one of them something happens."""

    def __init__(self, how, at):
        self.how = how
        self.at = at
        self.count = 0

    def meet(self, name):
        self.count += 1
        if self.how == KILLED and self.count == self.at:
            os._exit(_KILLED_CODE)
        is_full = self.count >= self.at and name not in _FREEING
        if (self.how == FULL and is_full) or (self.how == FULL_ONCE and self.count == self.at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Stream:
    """A stream that meets the calls on writing; half of what it writes is written before."""

    def __init__(self, stream, calls):
        self._stream = stream
        self._calls = calls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def write(self, content):
        half = len(content) // 2
        self._stream.write(content[:half])
        self._stream.flush()
        self._calls.meet("write")
        self._stream.write(content[half:])

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _install(patch, calls):
    for name in _CHANGING:
        patch.setattr(os, name, _met(getattr(os, name), name, calls))
    opened, streamed = os.open, os.fdopen

    def open_(path, flags, *args, **how):
        if flags & (os.O_CREAT | os.O_TRUNC):
            calls.meet("open")
        return opened(path, flags, *args, **how)

    patch.setattr(os, "open", open_)
    patch.setattr(os, "fdopen", lambda *args: _Stream(streamed(*args), calls))


def _met(function, name, calls):
    def call(*args, **how):
        calls.meet(name)
        return function(*args, **how)

    return call


def changing_calls(action):
    calls = _Calls("counted", 0)
    with pytest.MonkeyPatch.context() as patch:
        _install(patch, calls)
        action()
    return calls.count


def interrupted(action, *, how, at):
    """Return the exit code of an action in a process of its own; None if it was killed there.

    At its changing call of this number it is killed, or the disk is full, from then on or once.
    """

    def stopped():
        _install(pytest.MonkeyPatch(), _Calls(how, at))
        return action()

    (code,) = in_processes([stopped])
    return None if code == _KILLED_CODE else code


def in_processes(actions):
    """Run actions at the same time, each in a process of its own; return their exit codes."""
    children = []
    for action in actions:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = action()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
