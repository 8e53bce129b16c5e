"""Read the baseline storage: entries that are accepted once and never altered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from peft_regress.baselines.chain import ENTRY_NAME, entry_number, in_order, newest_file
from peft_regress.baselines.contents import Contents
from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder
from peft_regress.runs.bulk_read import read_without_ledgers
from peft_regress.runs.run_file import RunFile, read_run_file

_T = TypeVar("_T")

_MOST_READS: Final = 20
"""How often to read a storage again in which others accept meanwhile."""

_OTHER_FOLDERS = frozenset({"adapters", "ledgers", "sources"})


def baseline_files(root: Path) -> list[Path]:
    """List the entries of a baseline storage, `<machine id>/NNNN_<name>.json`, oldest first.

    Raises `RunFileError` for a JSON file that is no entry, `InputError` for an unreadable folder:
    either could hide the newest baseline.
    """
    if not is_folder(root):
        return []
    try:
        folders = [path for path in root.iterdir() if path.is_dir()]
        folders = [path for path in folders if not path.name.startswith(".")]
        found = [
            path
            for folder in folders
            if folder.name not in _OTHER_FOLDERS
            for path in folder.iterdir()
        ]
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
        ) from error
    for path in found:
        if path.name == newest_file(root).name:
            raise InputError(
                f"{root}: is not a baseline storage, but the folder {path.parent} in it is one"
            )
    entries = [path for path in found if path.suffix == ".json" and not path.name.startswith(".")]
    for path in entries:
        if not ENTRY_NAME.match(path.name):
            raise RunFileError(
                path,
                "is no entry: the name of an entry is <machine id>/NNNN_<name>.json",
                "Rename it, or move it out of the baselines.",
            )
    return sorted(entries, key=lambda path: (entry_number(path), path.as_posix()))


def read_runs(root: Path, *, ledgers: bool = True) -> list[RunFile]:
    """Read every entry of a baseline storage, oldest first.

    Raises `RunFileError` for an entry that cannot be trusted, and where an entry, or a part that
    one names, is missing. `index.read_contents` reads only what judges.
    """
    return read_while_still(root, lambda paths: _read_whole(root, paths, ledgers=ledgers))


def read_while_still(root: Path, read: Callable[[list[Path]], _T]) -> _T:
    """Read the entries of a storage; once more if one was accepted meanwhile."""
    for _ in range(_MOST_READS):
        paths = baseline_files(root)
        try:
            return read(paths)
        except RunFileError:
            if baseline_files(root) == paths:
                raise
            # An entry was accepted meanwhile.
    raise InputError(
        f"{root}: entries are accepted faster than they are read. Wait until that has ended."
    )


def _read_whole(root: Path, paths: Sequence[Path], *, ledgers: bool) -> list[RunFile]:
    stored = [read_run_file(path) for path in paths] if ledgers else read_without_ledgers(paths)
    for entry in stored:
        check_accepted(entry)
    contents = Contents()
    ordered = in_order(stored)
    for entry in ordered:
        contents.add(entry)
    contents.check_whole(root)
    return ordered


def check_accepted(entry: RunFile) -> None:
    """Raise `RunFileError` for a run that lies among the entries but is none."""
    if entry.run.accepted is None:
        raise RunFileError(
            entry.path,
            "is among the baselines but was never accepted",
            f"Move it away and type `peft-regress accept {entry.path.name} --reason TEXT`.",
        )
