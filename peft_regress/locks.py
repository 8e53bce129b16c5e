"""Lock files: say who holds one, and wait for no longer than a stated time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peft_regress.errors import InputError
from peft_regress.text import clean, printable

_SECONDS_OF_SILENCE: Final = 1.0
_SECONDS_BETWEEN_TRIES: Final = 0.02


class Lock:
    """A lock file that is open; see `opened_lock`. The system drops a lock with its last holder."""

    def __init__(self, path: Path, handle: int, *, patience: float) -> None:
        self.path = path
        self.handle = handle
        """The open file. A process that inherits it holds the lock too, for as long as it lives."""
        self._patience = patience
        self._is_signed = False

    def share(self) -> None:
        """Wait until nobody owns the lock, then share it."""
        self._wait_for(alone=False)

    def own(self) -> None:
        """Wait until nobody else has the lock, then own it, and write into the file who does."""
        self._wait_for(alone=True)
        self._sign(_this_process())

    def own_now(self) -> bool:
        """Own the lock if nobody else has it; return whether that worked."""
        return self._took(alone=True)

    def close(self) -> None:
        """Drop the lock, unless another process inherited it."""
        if self._is_signed:
            self._sign("")
        os.close(self.handle)

    def _wait_for(self, *, alone: bool) -> None:
        """Take the lock; say after a second who has it, and give up when patience ends."""
        started = time.monotonic()
        was_told = False
        while not self._took(alone=alone):
            waited = time.monotonic() - started
            if waited >= self._patience:
                raise InputError(
                    f"{self.path}: locked by {self._holder()} for {self._patience:.0f} seconds. "
                    "Wait until it ends, or end it, then run the same command again."
                )
            if waited >= _SECONDS_OF_SILENCE and not was_told:
                was_told = True
                _tell(f"waiting for {self.path}, locked by {self._holder()}")
            time.sleep(_SECONDS_BETWEEN_TRIES)

    def _took(self, *, alone: bool) -> bool:
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self.handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sign(self, text: str) -> None:
        # Only for people: a full disk must not keep anyone from the lock.
        with contextlib.suppress(OSError):
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, text.encode("utf-8", "backslashreplace"), 0)
        self._is_signed = bool(text)

    def _holder(self) -> str:
        """Return who owns the lock; one that is shared, or passed on, names nobody."""
        signed = os.pread(self.handle, 1000, 0).decode("utf-8", "replace")
        process, _, command = signed.partition(" ")
        if not process.isdecimal() or not _is_alive(int(process)):
            return "another process"
        return f"process {process} ({clean(command)})"


def _this_process() -> str:
    return clean(" ".join([str(os.getpid()), *map(os.path.basename, sys.argv[:1]), *sys.argv[1:]]))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _tell(text: str) -> None:
    """Print a line on standard error, if anyone reads it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def opened_lock(path: Path, *, patience: float = 60.0) -> Iterator[Lock]:
    """Open a lock file, and close it at the end, which drops the lock.

    patience: for how many seconds it is waited for. Raises `OSError`; waiting for longer raises
    `InputError`. A link is refused: the file that it leads to would lose its content.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o644)
    lock = Lock(path, handle, patience=patience)
    try:
        yield lock
    finally:
        lock.close()
