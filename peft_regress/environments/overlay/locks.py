"""Locks that many may share or one may have, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Lock", "held"]


class Lock:
    """A lock file that is open; see `held`."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        """The open file: a process that inherits it has the lock, too, for as long as it lives."""

    def share(self) -> None:
        """Wait until nobody has it alone, then have it together with others."""
        fcntl.flock(self.handle, fcntl.LOCK_SH)

    def own(self) -> None:
        """Wait until nobody else has it, then have it alone."""
        fcntl.flock(self.handle, fcntl.LOCK_EX)

    def own_now(self) -> bool:
        """Have it alone if nobody else has it; return whether that is so."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def held(path: Path) -> Iterator[Lock]:
    """Open a lock file, and let go of it at the end."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield Lock(handle)
    finally:
        os.close(handle)
