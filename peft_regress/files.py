"""Write files so that nothing is lost: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_folder", "write_atomic"]


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that is too long for the system is none."""
    # `Path.is_dir` raises for such a path.
    return os.path.isdir(path)  # noqa: PTH112


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, or leave it as it was and raise `InputError`.

    What is no regular file, such as /dev/stdout, is written to and never replaced.
    """
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; a baseline is as public as its neighbours.
        os.chmod(temporary, 0o644)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        # An interrupt leaves no litter either.
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
        if not isinstance(error, OSError):
            raise
        msg = (
            f"{path}: cannot be written ({error.strerror or error}); what was there stands. "
            "Free some space or choose another path, then run the same command again."
        )
        raise InputError(msg) from error
