"""Keep what can be made again in files of the user's cache folder, each under the digest of a key.

A file that is damaged, or that cannot be read or written, is as good as none.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from peft_regress.errors import InputError
from peft_regress.files import is_file, read_bytes, write_atomic
from peft_regress.runs.schema import digest_of

_KEY: Final = re.compile("[0-9a-f]{64}")
"""The names of the files."""


def read_kept(path: Path) -> bytes | None:
    """Return what was kept; None if there is nothing, or it is not as it was written."""
    try:
        digest, _, content = read_bytes(path).partition(b"\n")
    except (OSError, InputError):
        return None
    return content if digest_of(content).encode() == digest else None


def mark_as_used(path: Path) -> None:
    """Let a file stay longer than those that are used less."""
    with contextlib.suppress(OSError):  # a folder that cannot be written may be read all the same
        os.utime(path)


def keep(path: Path, content: bytes, *, most: int) -> None:
    """Write a file, if that works, and remove those that were used longest ago.

    most: how many stay in the folder. What others have put there stays.
    """
    with contextlib.suppress(InputError, OSError):
        write_atomic(path, digest_of(content).encode() + b"\n" + content)
        mine = [each for each in path.parent.iterdir() if _KEY.fullmatch(each.name)]
        if len(mine) > most:
            mine = [each for each in mine if is_file(each)]
            for oldest in sorted(mine, key=_last_use, reverse=True)[most:]:
                oldest.unlink()


def _last_use(path: Path) -> float:
    return path.stat().st_mtime
