"""Refuse to write a file over what is stored, or over what the same command reads."""

from __future__ import annotations

import os
from pathlib import Path

from peft_regress.errors import InputError
from peft_regress.files import is_file
from peft_regress.text import printable


def check_outside(path: Path, storage: Path, what: str, *, kind: str = "baseline storage") -> None:
    """Raise `InputError` if a file to write lies in a storage, under whatever name."""
    if _real(path).is_relative_to(_real(storage)):
        msg = (
            f"{what} {path}: lies in the {kind} {storage}, to which only `accept` "
            "adds. Choose another path."
        )
        raise InputError(printable(msg))


def check_not_read(path: Path, source: Path, what: str) -> None:
    """Raise `InputError` if a file to write is what the command reads, under whatever name."""
    written, read = _real(path), _real(source)
    is_shard = is_file(path) and written.parent == read and written.suffix == ".json"
    if written == read or is_shard:
        msg = f"{what} {path}: is the run that is read. Choose another path."
        raise InputError(printable(msg))


def _real(path: Path) -> Path:
    try:
        # Unlike `Path.resolve`, it takes a loop of links.
        return Path(os.path.realpath(path))
    except ValueError:  # a name that no file can have
        return path.absolute()
