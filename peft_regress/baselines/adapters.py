"""Adapters that a baseline's release saved: kept beside a run file, stored by `accept`.

A later release must still load them and compute what they computed. One a method, the smallest:
`baselines/adapters/<method>/`, the files as the library wrote them and `stored.json` beside them.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from peft_regress.cases import Case
    from peft_regress.runs.schema import Run

__all__ = [
    "LARGEST_BYTES",
    "ChosenAdapter",
    "StoredAdapter",
    "adapters_of_run",
    "choose_adapters",
    "gather_adapters",
    "keep_adapter",
    "prune_adapters",
    "store_adapters",
    "stored_adapter",
]

LARGEST_BYTES: Final = 2 * 2**20
"""What is larger is not kept: of forty methods the smallest of each must stay in 10 MB."""

_MANIFEST: Final = "stored.json"


class StoredAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `stored.json` says: whose the files are, their SHA-256, and what the model then gave.

    output: logits (images, classes) in float32 for the first test images of the case's task.
    packages: those that wrote the files, by name.
    """

    case: str
    definition: str
    output: list[list[float]]
    files: dict[str, str]
    packages: dict[str, str] = msgspec.field(default_factory=dict)


def adapters_of_run(run_file: Path) -> Path:
    """Return the folder beside a run file in which its adapters are kept."""
    return run_file.with_name(f"{run_file.stem}.adapters")


def prune_adapters(folder: Path, run: Run) -> None:
    """Remove what an earlier run kept in a folder, which this one did not keep again."""
    if not is_folder(folder):
        return
    for path in folder.iterdir():
        if not (path / _MANIFEST).is_file():
            continue  # nothing that a run has kept
        with contextlib.suppress(InputError):
            stored = _read_checked(path)
            record = run.cases.get(stored.case)
            is_kept = record is not None and record.invariants.get("saved_adapter_reloads")
            if record and is_kept and record.definition == stored.definition:
                continue
        shutil.rmtree(path, ignore_errors=True)


def keep_adapter(
    folder: Path,
    case: Case,
    *,
    definition: str,
    output: list[list[float]],
    save: Callable[[Path], None],
) -> None:
    """Let `save` write a case's files into a folder of its own below `folder`, if small enough.

    If the folder cannot be written nothing is kept: `accept` says so, and no run is lost for it.
    """
    target = folder / case.id.replace("/", "--")
    # First: what an earlier run kept must not stand for this one, whatever comes.
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(OSError, InputError), tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        save(made)
        contents = {path.name: path.read_bytes() for path in made.iterdir()}
        if sum(map(len, contents.values())) <= LARGEST_BYTES:
            files = {name: _sha256(content) for name, content in sorted(contents.items())}
            stored = StoredAdapter(case=case.id, definition=definition, output=output, files=files)
            _replace(target, contents, stored)


class ChosenAdapter(NamedTuple):
    """What is to be stored for a method: the folder that a run kept, what it is, and of whom."""

    method: str
    kept: Path
    stored: StoredAdapter


def gather_adapters(source: Path, run_file: Path) -> None:
    """Copy the adapters that a run, or each of its shards, kept to beside another run file.

    Raises `InputError` where they cannot be copied.
    """
    target = adapters_of_run(run_file)
    try:
        shutil.rmtree(target, ignore_errors=True)
        for folder in _kept_beside(source):
            shutil.copytree(folder, target, dirs_exist_ok=True)
    except OSError as error:
        msg = f"{target}: cannot be written ({error.strerror or error})"
        raise InputError(msg) from error


def _kept_beside(source: Path) -> list[Path]:
    """Return the folders in which a run, or each of its shards, kept adapters."""
    folders = [adapters_of_run(source)]
    if is_folder(source):
        folders = sorted(path for path in source.iterdir() if path.name.endswith(".adapters"))
    return [folder for folder in folders if is_folder(folder)]


def choose_adapters(source: Path, root: Path) -> list[ChosenAdapter]:
    """Choose of each method the smallest adapter that a run, or each of its shards, kept.

    A method whose stored adapter is of a case that was kept again stays with that case. Raises
    `InputError` where what is kept is not of this run, or was altered.
    """
    run = read_run(source).run
    kept: dict[str, list[tuple[int, ChosenAdapter]]] = {}
    for path in (path for folder in _kept_beside(source) for path in folder.iterdir()):
        stored = _read_checked(path)
        record = run.cases.get(stored.case)
        if record is None or record.definition != stored.definition:
            msg = f"{path}: is what {stored.case} shipped in another run. Remove the folder."
            raise InputError(msg)
        method = record.case.method
        size = sum((path / name).stat().st_size for name in stored.files)
        made = msgspec.structs.replace(stored, packages=run.environment)
        kept.setdefault(method, []).append((size, ChosenAdapter(method, path, made)))
    chosen = []
    for method, found in sorted(kept.items()):
        before = root / "adapters" / method
        case = _read_checked(before).case if is_folder(before) else None
        found.sort(key=lambda item: (item[1].stored.case != case, item[0], item[1].stored.case))
        chosen.append(found[0][1])
    return chosen


def store_adapters(chosen: Iterable[ChosenAdapter], root: Path) -> list[str]:
    """Store the chosen adapters, each in its method's place; return the ids of their cases."""
    cases = []
    for method, kept, stored in chosen:
        contents = {name: read_bytes(kept / name) for name in stored.files}
        _replace(root / "adapters" / method, contents, stored)
        cases.append(stored.case)
    return cases


def stored_adapter(root: Path, case: Case, definition: str) -> tuple[Path, StoredAdapter] | None:
    """Return the folder and manifest of a case's stored adapter; None where there is none.

    None, too, where it was stored under another definition. Raises `InputError` for an altered one.
    """
    folder = root / "adapters" / case.method
    if not is_folder(folder):
        return None
    stored = _read_checked(folder)
    return (folder, stored) if (stored.case, stored.definition) == (case.id, definition) else None


def _read_checked(folder: Path) -> StoredAdapter:
    manifest = folder / _MANIFEST
    remedy = f"Restore it with `git checkout -- {folder}`, or remove the folder and accept anew."
    try:
        stored = msgspec.json.decode(read_bytes(manifest), type=StoredAdapter)
        found = {path.name: _sha256(read_bytes(path)) for path in folder.iterdir()}
    except OSError as error:
        msg = f"{error.filename or manifest}: cannot be read ({error.strerror}). {remedy}"
        raise InputError(msg) from error
    except msgspec.DecodeError as error:
        msg = f"{manifest}: says nothing of a stored adapter ({error}). {remedy}"
        raise InputError(msg) from error
    del found[_MANIFEST]
    for name in sorted(found.keys() | stored.files.keys()):
        if found.get(name) != stored.files.get(name):
            wanted, given = stored.files.get(name, "no such file"), found.get(name, "none")
            msg = f"{folder / name}: expected sha256 {wanted}, found {given}. {remedy}"
            raise InputError(msg)
    return stored


def _replace(target: Path, contents: Mapping[str, bytes], stored: StoredAdapter) -> None:
    """Write a folder anew, the manifest last: cut off in between, it is seen to be incomplete."""
    if is_folder(target):
        shutil.rmtree(target)
    for name, content in contents.items():
        write_atomic(target / name, content)
    manifest = msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"
    write_atomic(target / _MANIFEST, manifest)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
