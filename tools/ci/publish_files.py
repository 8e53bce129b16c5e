"""Files that pass from one job to another: plain files with plain names, of a limited size."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from publish_results import PublishError

if TYPE_CHECKING:
    from pathlib import Path

Files = dict[str, bytes]
"""The content of each file, by its path below a folder, with `/`."""

_PART: Final = r"[A-Za-z0-9_](?!.*\.\.)[A-Za-z0-9_.+-]{0,199}"
_MOST_FILES: Final = 20_000
_MOST_BYTES: Final = 2**28
_DEEPEST: Final = 5


def read_files(root: Path, part: str = ".") -> Files:
    """Read all files below a folder, or one file; hidden ones are left out, links are refused.

    Raises `PublishError` for a link, a special file, a name that is more than letters, digits and
    `_ . + -`, and for too many files or bytes.
    """
    found: Files = {}
    room = _MOST_BYTES
    waiting = [part] if os.path.lexists(root / part) else []
    while waiting:
        name = waiting.pop()
        path = root / name
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and name.count("/") < _DEEPEST:
            inside = [one.name for one in path.iterdir() if not one.name.startswith(".")]
            waiting += [one if name == "." else f"{name}/{one}" for one in inside]
            continue
        check_name(name)
        found[name] = _read_plain(path, room)
        room -= len(found[name])
        if len(found) > _MOST_FILES:
            raise PublishError(f"{root}: has more than {_MOST_FILES} files")
    return dict(sorted(found.items()))


def check_name(name: str) -> None:
    """Raise `PublishError` for a path that is not made of plain names."""
    if not re.fullmatch(rf"{_PART}(/{_PART}){{0,{_DEEPEST}}}", name):
        raise PublishError(f"{name!r:.200}: is no name of a file that may be published")


def _read_plain(path: Path, room: int) -> bytes:
    def without_following(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    problem = "not a regular file"
    try:
        with open(path, "rb", opener=without_following) as stream:
            if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                content = stream.read(room + 1)
                if len(content) <= room:
                    return content
                problem = f"more than {_MOST_BYTES >> 20} MiB in all"
    except OSError as error:
        problem = f"{error.strerror}"
    raise PublishError(f"{str(path)!r}: cannot be published ({problem})")
