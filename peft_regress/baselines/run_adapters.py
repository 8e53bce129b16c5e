"""Adapters that a run kept beside its file, for `accept` to store.

There is a folder for each case, with the library's files and `stored.json`; `stored_adapters` has
those of a storage. This module imports no torch.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Case, CaseId, DataFile, Name, Version, in_words, is_data_file
from peft_regress.errors import InputError
from peft_regress.files import is_folder, read_bytes, write_atomic
from peft_regress.runs.schema import MadeWith, Run
from peft_regress.text import clean, model_name

LARGEST_BYTES: Final = 2 * 2**20
"""Larger adapters are not kept: those of forty methods must fit into 10 MB."""

MANIFEST: Final = "stored.json"
_RELOADS: Final = "saved_adapter_reloads"


class StoredAdapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `stored.json`."""

    case: CaseId
    """The id of the case that made the files."""
    definition: str
    output: list[list[float]]
    """Float32 logits (items, classes) for the first test items; else samples, a list a tensor."""
    files: dict[DataFile, str]
    """SHA-256 of each file, by name."""
    packages: dict[Name, Version] = msgspec.field(default_factory=dict)
    """Versions of the packages that wrote the files, by name."""
    made_with: MadeWith | UnsetType = UNSET
    """Of a case of one's own, whose model and data are not defined elsewhere."""


def adapters_of_run(run_file: Path) -> Path:
    """Return the folder beside a run file that keeps its adapters."""
    return run_file.with_name(f"{run_file.stem}.adapters")


def is_of(run: Run, stored: StoredAdapter) -> bool:
    """Return whether an adapter is of a case as this run defines it."""
    record = run.cases.get(stored.case)
    return record is not None and record.definition == stored.definition


def prune_adapters(folder: Path, run: Run) -> None:
    """Remove adapters of an earlier run that this run did not keep again."""
    if not is_folder(folder):
        return
    for path in folder.iterdir():
        if not (path / MANIFEST).is_file():
            continue  # no run made this
        with contextlib.suppress(InputError):
            stored = read_checked(path)
            if is_of(run, stored) and run.cases[stored.case].invariants.get(_RELOADS):
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
    files: dict[str, bytes] = {}
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as temporary:
        save(Path(temporary))
        contents = {path.name: _public(path) for path in sorted(Path(temporary).iterdir())}
        is_small = sum(map(len, contents.values())) <= LARGEST_BYTES
        if is_small and all(map(is_data_file, contents)):
            stored = StoredAdapter(
                case=case.id,
                definition=definition,
                output=output,
                files={name: _sha256(content) for name, content in contents.items()},
                made_with=made_with,
            )
            files = {**contents, MANIFEST: manifest_content(stored)}
    place_adapter(folder, case, files)


def _public(file: Path) -> bytes:
    """Return the content of an adapter's file; its configuration names no folder of a model."""
    content = file.read_bytes()
    if file.name != "adapter_config.json":
        return content
    config = json.loads(content)
    public = {
        name: model_name(value)
        if name.endswith("_name_or_path") and isinstance(value, str)
        else value
        for name, value in config.items()
    }
    return content if public == config else json.dumps(public, indent=2, sort_keys=True).encode()


def adapter_files(folder: Path, case: Case) -> dict[str, bytes]:
    """Return the files that a case kept below a folder, by name; empty if it kept none."""
    return {path.name: path.read_bytes() for path in (folder / _own_folder(case)).glob("*")}


def place_adapter(folder: Path, case: Case, files: Mapping[str, bytes]) -> None:
    """Replace what a case kept by these files, which `adapter_files` may return elsewhere.

    If the folder cannot be written, nothing is kept: the run goes on, and `accept` reports it.
    """
    target = folder / _own_folder(case)
    # First of all, so that files of an earlier run never pass for this one's.
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(InputError):
        write_adapter(target, files)


def write_adapter(target: Path, files: Mapping[str, bytes]) -> None:
    """Write an adapter's files, last the manifest: it tells interruptions. Raises `InputError`."""
    for name in sorted(files, key=lambda name: (name == MANIFEST, name)):
        write_atomic(target / name, files[name])


@contextlib.contextmanager
def gathered_adapters(
    source: Path, run_file: Path, *, beside: Iterable[Path] = ()
) -> Iterator[None]:
    """Replace the adapters beside a run file, which the context writes, by those of another run.

    source: that run, or the folder of its shards. beside: further folders. If anything fails, the
    adapters stay as they were. Raises `InputError` if they cannot be copied.
    """
    target = adapters_of_run(run_file)
    staged = target.with_name(f".peft-regress-{secrets.token_hex(8)}.tmp")
    try:
        for folder in filter(is_folder, (*beside, *kept_beside(source))):
            shutil.copytree(folder, staged, dirs_exist_ok=True, symlinks=True)
        yield
        shutil.rmtree(target, ignore_errors=True)
        if is_folder(staged):
            staged.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def kept_beside(source: Path) -> list[Path]:
    """Return the folders with the adapters of a run, or of each of its shards."""
    folders = [adapters_of_run(source)]
    if is_folder(source):
        folders = sorted(path for path in source.iterdir() if path.name.endswith(".adapters"))
    return [folder for folder in folders if is_folder(folder)]


def _own_folder(case: Case) -> str:
    """Return the folder of a case of one's own, which shares its adapter with no other."""
    return case.id.replace("/", "--")


def read_checked(folder: Path) -> StoredAdapter:
    """Return the manifest of an adapter. Raises `InputError` unless all files are as it says."""
    manifest = folder / MANIFEST
    remedy = (
        f"Restore it with `git checkout -- {folder}`. Beside a run file, you can also remove the "
        "folder, and accept again."
    )
    try:
        stored = msgspec.json.decode(read_bytes(manifest), type=StoredAdapter)
        found = {
            path.name: _sha256(read_bytes(path)) for path in folder.iterdir() if path != manifest
        }
    except OSError as error:
        message = f"{error.filename or manifest}: cannot be read ({error.strerror}). {remedy}"
        raise InputError(message) from error
    except (ValueError, RecursionError) as error:  # also for an invalid byte
        problem = f"is not a manifest of a stored adapter ({in_words(str(error))})"
        raise InputError(f"{manifest}: {problem}. {remedy}") from error
    for name in sorted(found.keys() | stored.files.keys()):
        wanted, given = stored.files.get(name, "no such file"), found.get(name, "none")
        if wanted != given:
            raise InputError(
                f"{folder}/{clean(name)}: expected sha256 {clean(wanted)}, found {given}. {remedy}"
            )
    return stored


def manifest_content(stored: StoredAdapter) -> bytes:
    """Return the content of `stored.json`."""
    return msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
