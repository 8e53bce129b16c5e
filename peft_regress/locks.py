"""Lock files that are waited for no longer than a stated time."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peft_regress.errors import InputError
from peft_regress.text import printable

_SECONDS_OF_SILENCE: Final = 1.0
_SECONDS_BETWEEN_TRIES: Final = 0.02


@dataclass(frozen=True)
class Lock:
    """A lock file that is open; see `opened_lock`. The system drops a lock with its last holder."""

    path: Path
    handle: int
    """The open file. A process that inherits it holds the lock too, for as long as it lives."""
    patience: float
    """Seconds."""

    def share(self) -> None:
        """Wait until nobody owns the lock, then share it."""
        self._wait_for(fcntl.LOCK_SH)

    def own(self) -> None:
        """Wait until nobody else has the lock, then own it."""
        self._wait_for(fcntl.LOCK_EX)

    def own_now(self) -> bool:
        """Own the lock if nobody else has it; return whether that worked."""
        return self._took(fcntl.LOCK_EX)

    def _wait_for(self, how: int) -> None:
        """Take the lock; say after a second that it is waited for, and give up in the end."""
        started = time.monotonic()
        was_told = False
        while not self._took(how):
            waited = time.monotonic() - started
            if waited >= self.patience:
                raise InputError(
                    f"{self.path}: locked by another process for {self.patience:.0f} seconds. "
                    "Wait until it ends, or end it, then run the same command again."
                )
            if waited >= _SECONDS_OF_SILENCE and not was_told:
                was_told = True
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(
                        printable(f"waiting for {self.path}, locked by another process") + "\n"
                    )
                    sys.stderr.flush()
            time.sleep(_SECONDS_BETWEEN_TRIES)

    def _took(self, how: int) -> bool:
        try:
            fcntl.flock(self.handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def opened_lock(path: Path, *, patience: float = 60.0) -> Iterator[Lock]:
    """Open a lock file, and close it at the end, which drops the lock.

    patience: for how many seconds it is waited for, then `InputError` is raised. Raises `OSError`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield Lock(path, handle, patience)
    finally:
        os.close(handle)  # unless another process inherited it, this drops the lock
