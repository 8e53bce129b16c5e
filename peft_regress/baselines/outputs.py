"""Refuse to write a file over what is stored, or over what the same command reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from peft_regress.errors import InputError
from peft_regress.files import path_problem
from peft_regress.text import clean, printable


def check_output(
    path: Path,
    option: str,
    *,
    storage: Path,
    reads: Iterable[Path] = (),
    kind: str = "baseline storage",
) -> None:
    """Raise `InputError` for a file that a command must not, or cannot, write.

    It must not lie in a storage, nor be what the command reads, or a new shard of it, under
    whatever name. option: what named the file.
    """
    problem = path_problem(path)
    if problem is not None:
        raise InputError(f"{option} {clean(str(path))}: {problem}. Choose another path.")
    written = Path(os.path.realpath(path))  # unlike `Path.resolve`, it takes a loop of links
    if written.is_relative_to(os.path.realpath(storage)):
        msg = (
            f"{option} {path}: lies in the {kind} {storage}, to which only `accept` "
            "adds. Choose another path."
        )
        raise InputError(printable(msg))
    for source in reads:
        read = Path(os.path.realpath(source))
        if written == read or (written.parent == read and written.suffix == ".json"):
            msg = (
                f"{option} {path}: is the run that is read, or would be a shard of it. Choose "
                "another path."
            )
            raise InputError(printable(msg))
