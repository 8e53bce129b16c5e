"""Adapters that the release of a baseline saved: kept beside a run file, stored by `accept`.

A later release must still load them and compute the same output. `baselines/adapters/` has a folder
for each built-in method, with the smallest adapter of its cases, and one for each case of a user's
own; a folder has the library's files and `stored.json`. This module imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import CaseId, DataFile, Name, Version, in_words, is_data_file
from peft_regress.errors import InputError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.schema import MadeWith  # noqa: TC001  (msgspec reads it)
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from peft_regress.cases import Case
    from peft_regress.runs.schema import Run

LARGEST_BYTES: Final = 2 * 2**20
"""Larger adapters are not kept: those of forty methods must fit into 10 MB."""

_MANIFEST: Final = "stored.json"


class StoredAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `stored.json`."""

    case: CaseId
    """The id of the case that made the files."""
    definition: str
    output: list[list[float]]
    """Logits (items, classes) in float32 for the first test items; of other outputs samples, one
    list for each tensor."""
    files: dict[DataFile, str]
    """SHA-256 of each file, by name."""
    packages: dict[Name, Version] = msgspec.field(default_factory=dict)
    """Versions of the packages that wrote the files, by name."""
    made_with: MadeWith | UnsetType = UNSET
    """Of a case of one's own, whose model and data are not defined elsewhere."""


def adapters_of_run(run_file: Path) -> Path:
    """Return the folder beside a run file that keeps its adapters."""
    return run_file.with_name(f"{run_file.stem}.adapters")


def prune_adapters(folder: Path, run: Run) -> None:
    """Remove adapters of an earlier run that this run did not keep again."""
    if not is_folder(folder):
        return
    for path in folder.iterdir():
        if not (path / _MANIFEST).is_file():
            continue  # no run made this
        with contextlib.suppress(InputError):
            stored = _read_checked(path)
            record = run.cases.get(stored.case)
            is_kept = record is not None and record.invariants.get("saved_adapter_reloads")
            if record and is_kept and record.definition == stored.definition:
                continue
        shutil.rmtree(path, ignore_errors=True)


def keep_adapter(  # noqa: PLR0913  (what identifies the files, and how to write them)
    folder: Path,
    case: Case,
    *,
    definition: str,
    output: list[list[float]],
    made_with: MadeWith | UnsetType = UNSET,
    save: Callable[[Path], None],
) -> None:
    """Let `save` write a case's files into its own folder below `folder`, if small enough.

    If the folder cannot be written, nothing is kept: the run goes on, and `accept` reports it.
    """
    target = folder / _own_folder(case)
    # First of all, so that files of an earlier run never pass for this one's.
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(OSError, InputError), tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        save(made)
        contents = {path.name: path.read_bytes() for path in made.iterdir()}
        is_small = sum(map(len, contents.values())) <= LARGEST_BYTES
        if is_small and all(map(is_data_file, contents)):
            files = {name: _sha256(content) for name, content in sorted(contents.items())}
            stored = StoredAdapter(
                case=case.id,
                definition=definition,
                output=output,
                files=files,
                made_with=made_with,
            )
            _replace(target, contents, stored)


class ChosenAdapter(NamedTuple):
    """The adapter to store for a built-in method, or for a case of one's own."""

    folder: str
    """Its name in the storage."""
    kept: Path
    """The folder that the run kept."""
    stored: StoredAdapter


def gather_adapters(source: Path, run_file: Path) -> None:
    """Copy the adapters of a run, or of all its shards, to the folder beside another run file.

    Raises `InputError` if they cannot be copied.
    """
    target = adapters_of_run(run_file)
    try:
        shutil.rmtree(target, ignore_errors=True)
        for folder in _kept_beside(source):
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=_links)
    except OSError as error:
        msg = f"{target}: cannot be written ({error.strerror or error})"
        raise InputError(msg) from error


def _kept_beside(source: Path) -> list[Path]:
    """Return the folders with the adapters of a run, or of each of its shards."""
    folders = [adapters_of_run(source)]
    if is_folder(source):
        folders = sorted(path for path in source.iterdir() if path.name.endswith(".adapters"))
    return [folder for folder in folders if is_folder(folder) and not folder.is_symlink()]


def _links(folder: str, names: list[str]) -> list[str]:
    """Return the links in a folder: they could lead to a secret of whoever copies it."""
    return [name for name in names if (Path(folder) / name).is_symlink()]


def choose_adapters(source: Path, root: Path) -> list[ChosenAdapter]:
    """Choose the smallest adapter of each method that a run, or one of its shards, kept.

    If the run kept an adapter of the case that the storage holds, that case stays. Raises
    `InputError` for an adapter that was altered or comes from another run.
    """
    run = read_run(source).run
    kept: dict[str, list[tuple[int, ChosenAdapter]]] = {}
    for path in (path for folder in _kept_beside(source) for path in folder.iterdir()):
        stored = _read_checked(path)
        record = run.cases.get(stored.case)
        if record is None or record.definition != stored.definition:
            msg = f"{path}: comes from {stored.case} in another run. Remove the folder."
            raise InputError(msg)
        folder = _own_folder(record.case) if record.is_own else record.case.method
        size = sum((path / name).stat().st_size for name in stored.files)
        made = msgspec.structs.replace(stored, packages=run.environment)
        kept.setdefault(folder, []).append((size, ChosenAdapter(folder, path, made)))
    chosen = []
    for name, found in sorted(kept.items()):
        before = root / "adapters" / name
        case = _read_checked(before).case if is_folder(before) else None
        found.sort(key=lambda item: (item[1].stored.case != case, item[0], item[1].stored.case))
        chosen.append(found[0][1])
    return chosen


def store_adapters(chosen: Iterable[ChosenAdapter], root: Path) -> list[str]:
    """Store the chosen adapters, one for each method; return the ids of their cases."""
    cases = []
    for folder, kept, stored in chosen:
        contents = {name: read_bytes(kept / name) for name in stored.files}
        _replace(root / "adapters" / folder, contents, stored)
        cases.append(stored.case)
    return cases


def stored_adapter(root: Path, case: Case, definition: str) -> tuple[Path, StoredAdapter] | None:
    """Return the folder and the manifest of a case's stored adapter.

    None if there is none, or one of another definition. Raises `InputError` if it was altered.
    """
    for name in (_own_folder(case), case.method):
        folder = root / "adapters" / name
        if is_folder(folder):
            stored = _read_checked(folder)
            if (stored.case, stored.definition) == (case.id, definition):
                return folder, stored
    return None


def _own_folder(case: Case) -> str:
    """Return the folder of a case of one's own, which shares its adapter with no other."""
    return case.id.replace("/", "--")


def _read_checked(folder: Path) -> StoredAdapter:
    manifest = folder / _MANIFEST
    remedy = f"Restore it with `git checkout -- {folder}`, or remove the folder and accept again."
    try:
        stored = msgspec.json.decode(read_bytes(manifest), type=StoredAdapter)
        found = {path.name: _sha256(read_bytes(path)) for path in folder.iterdir()}
    except OSError as error:
        msg = f"{error.filename or manifest}: cannot be read ({error.strerror}). {remedy}"
        raise InputError(msg) from error
    except (ValueError, RecursionError) as error:  # also for an invalid byte
        msg = f"{manifest}: is no manifest of a stored adapter ({in_words(str(error))}). {remedy}"
        raise InputError(msg) from error
    del found[_MANIFEST]
    for name in sorted(found.keys() | stored.files.keys()):
        if found.get(name) != stored.files.get(name):
            wanted, given = stored.files.get(name, "no such file"), found.get(name, "none")
            msg = f"{folder / name}: expected sha256 {wanted}, found {given}. {remedy}"
            raise InputError(msg)
    return stored


def _replace(target: Path, contents: Mapping[str, bytes], stored: StoredAdapter) -> None:
    """Replace a folder. The manifest comes last, so that an interrupted write is noticed."""
    if is_folder(target):
        shutil.rmtree(target)
    for name, content in contents.items():
        write_atomic(target / name, content)
    manifest = msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"
    write_atomic(target / _MANIFEST, manifest)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
