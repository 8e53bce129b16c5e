"""Keep the baseline storage: entries that are accepted once and never altered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.errors import InputError, RunFileError
from peft_regress.files import is_folder, opened_lock
from peft_regress.runs.bulk_read import read_without_ledgers
from peft_regress.runs.run_file import read_run_file, without_host, write_run_file
from peft_regress.runs.schema import Acceptance, check_acceptance
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Role, Run

_ENTRY_NAME = re.compile(r"^(\d{4,})_.+\.json$")
_OTHER_FOLDERS = frozenset({"sources", "adapters"})


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
        msg = f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
        raise InputError(msg) from error
    entries = [path for path in found if path.suffix == ".json" and not path.name.startswith(".")]
    for path in entries:
        if not _ENTRY_NAME.match(path.name):
            raise RunFileError(
                path,
                "is no entry: the name of an entry is <machine id>/NNNN_<name>.json",
                "Rename it, or move it out of the baselines.",
            )
    return sorted(entries, key=lambda path: (_entry_number(path), path.as_posix()))


def read_runs(root: Path, *, ledgers: bool = True) -> list[RunFile]:
    """Read every entry of a baseline storage, oldest first.

    Without ledgers it reads hundreds of entries in seconds. Raises `RunFileError` for an entry that
    cannot be trusted.
    """
    paths = baseline_files(root)
    stored = [read_run_file(path) for path in paths] if ledgers else read_without_ledgers(paths)
    for entry in stored:
        if entry.run.accepted is None:
            raise RunFileError(
                entry.path,
                "is among the baselines but was never accepted",
                f"Move it away and type `peft-regress accept {entry.path.name} --reason TEXT`.",
            )
    return stored


def accept_run(  # noqa: PLR0913  (each is one fact of the entry)
    source: Path,
    *,
    root: Path,
    reason: str,
    date: str,
    history: bool = False,
    retired: Sequence[str] = (),
) -> Path:
    """Copy a run into the baseline storage as its newest entry, and return the new file.

    Cases with the ids `retired` are expected no longer, until an entry holds them again.

    Raises `InputError` if the run cannot be trusted, holds no case or a retired case, or if the
    reason is empty.
    """
    if not reason.strip():
        msg = "a baseline needs a reason: --reason TEXT says why the new numbers are right"
        raise InputError(msg)
    if not reason.isprintable():
        msg = f"--reason {reason!a}: write plain text on one line"
        raise InputError(msg)
    made = read_run(source)
    if not made.run.cases:
        msg = f"{source}: the run holds no case, so there is nothing to accept"
        raise InputError(msg)
    role: Role = "history" if history else "baseline"
    accepted = Acceptance(reason=reason, date=date, role=role, retired=list(retired))
    run = msgspec.structs.replace(made.run, accepted=accepted)
    check_acceptance(run)
    machine_info = without_host(made.document.get("machine_info", {}))
    document = {**made.document, "machine_info": machine_info}
    folder = root / _machine_id(document)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes that accept at once must not take the same number.
        with opened_lock(root / ".lock") as lock:
            lock.own()
            number = 1 + max((_entry_number(path) for path in baseline_files(root)), default=0)
            target = folder / f"{number:04d}_{_entry_title(run)}.json"
            write_run_file(target, run, document)
    except OSError as error:
        msg = f"{root}: cannot be written ({error.strerror or error}); nothing was accepted"
        raise InputError(msg) from error
    return target


def _entry_number(path: Path) -> int:
    match = _ENTRY_NAME.match(path.name)
    return int(match.group(1)) if match else 0


def _entry_title(run: Run) -> str:
    version = run.environment.get("peft")
    return re.sub(r"[^A-Za-z0-9.+-]", "-", f"peft-{version}" if version else "run")


def _machine_id(document: dict[str, Any]) -> str:
    """Name the folder of the machine that made the run, as pytest-benchmark does."""
    info = document.get("machine_info", {})
    python = ".".join(str(info.get("python_version", "0.0")).split(".")[:2])
    bits = "64bit" if "64" in str(info.get("machine", "64")) else "32bit"
    parts = (info.get("system", "Unknown"), info.get("python_implementation", "CPython"), python)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", "-".join([*map(str, parts), bits]))
    return name.lstrip(".")  # a storage ignores hidden folders
