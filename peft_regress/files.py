"""Read files without waiting forever; write them completely or not at all; lock them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_BYTES = 2**28
"""A hundred times the size of a run file of the default matrix."""


# The methods of `Path` raise for a name that is too long, holds NUL or leads in a circle. So what a
# user typed is asked for by these functions only.


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that the system refuses is not."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; one that the system refuses is not."""
    return os.path.isfile(path)  # noqa: PTH113


def resolved(path: Path) -> Path:
    """Return a path without links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def path_problem(path: Path) -> str | None:
    """Return why no file can have this name; None if one could."""
    try:
        os.lstat(path)
    except ValueError:
        return "a name cannot hold the character NUL"
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP}:
            return error.strerror
    return None


def _own_stream(path: Path) -> int | None:
    """Return the file number of this process's output or error stream if the path is one."""
    with contextlib.suppress(OSError):
        wanted = os.stat(path)  # noqa: PTH116  (like `os.fstat` below)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError):
                if os.path.samestat(wanted, os.fstat(number)):
                    if stream is not None:
                        stream.flush()
                    return number
    return None


def read_bytes(path: Path) -> bytes:
    """Read a whole file; a FIFO without a writer is empty.

    Raises `OSError`, also for a file larger than any run file, such as /dev/zero.
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    is_fifo = path.is_fifo()
    with open(path, "rb", opener=without_waiting if is_fifo else None) as stream:
        if is_fifo:
            # Opening must not block; reading waits for the writer.
            os.set_blocking(stream.fileno(), True)
        content = stream.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST_BYTES >> 20} MiB")
    return content


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file that others also write to. Raises `InputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror or error}). Choose another path."
        raise InputError(msg) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, or leave it unchanged and raise `InputError`.

    A path that is not a regular file, such as a FIFO, is written to and never replaced. The same
    goes for this process's output and error stream under any name: /dev/stdout may be a file.
    """
    temporary: str | None = None
    try:
        mine = _own_stream(path)
        if mine is not None or (path.exists() and not path.is_file()):
            with path.open("wb") if mine is None else os.fdopen(os.dup(mine), "wb") as stream:
                stream.write(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; a baseline is as public as the files beside it.
        os.chmod(temporary, 0o644)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        # An interrupt must not leave the temporary file behind either.
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        if not isinstance(error, OSError):
            raise
        msg = (
            f"{path}: cannot be written ({error.strerror or error}); it is unchanged. "
            "Free some space or choose another path, then run the same command again."
        )
        raise InputError(msg) from error


class Lock:
    """A lock file that is open; see `opened_lock`. The system drops a lock with its last holder."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        """The open file. A process that inherits it holds the lock too, for as long as it lives."""

    def share(self) -> None:
        """Wait until nobody owns the lock, then share it."""
        self._take()

    def own(self) -> None:
        """Wait until nobody else has the lock, then own it."""
        self._take(alone=True)

    def own_now(self) -> bool:
        """Own the lock if nobody else has it; return whether that worked."""
        try:
            self._take(alone=True, wait=False)
        except BlockingIOError:
            return False
        return True

    def _take(self, *, alone: bool = False, wait: bool = True) -> None:
        import fcntl  # Windows has none, and there the rest of this module works

        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.flock(self.handle, how if wait else how | fcntl.LOCK_NB)


@contextlib.contextmanager
def opened_lock(path: Path) -> Iterator[Lock]:
    """Open a lock file, and close it at the end, which drops the lock. Raises `OSError`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield Lock(handle)
    finally:
        os.close(handle)
