"""The adapters of a storage: under the digest of their manifest, named by entries.

A later release must still load them and compute the same output. A storage keeps one for each
built-in method, the smallest of its cases, and one for each case of a user's own. An entry goes on
naming an older adapter while that loads. Storages from before have `adapters/<method>/` and, of own
cases, `adapters/<id with -- for />/`, which no entry names; the first `accept` carries them over.
This module imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from peft_regress.baselines.adapters import (
    MANIFEST,
    StoredAdapter,
    kept_adapters,
    manifest_content,
    own_folder,
    read_checked,
)
from peft_regress.baselines.chain import adapter_folder, has_addresses, missing_adapter
from peft_regress.baselines.contents import Contents
from peft_regress.baselines.entries import baseline_files
from peft_regress.cases import Case
from peft_regress.errors import InputError
from peft_regress.files import TEMPORARY, is_folder, read_bytes
from peft_regress.runs.schema import Acceptance, Run, digest_of

ADDRESS: Final = re.compile(r"[0-9a-f]{64}")


class Adapter(NamedTuple):
    """An adapter that an entry names."""

    digest: str
    """Its address in a storage: that of its manifest, which has those of all its files."""
    folder: Path
    """Where its files are now: in the storage, beside the run, or in a storage from before."""
    stored: StoredAdapter

    def contents(self) -> dict[str, bytes]:
        """Return what its folder in a storage holds, by name of the file."""
        files = {name: read_bytes(self.folder / name) for name in sorted(self.stored.files)}
        return {**files, MANIFEST: manifest_content(self.stored)}


def _new_adapter(folder: Path, stored: StoredAdapter) -> Adapter:
    return Adapter(digest_of(manifest_content(stored)), folder, stored)


class Choice(NamedTuple):
    """The adapters that an entry names, by what each stands for: a method, or an own case."""

    new: dict[str, Adapter]
    """Those that the run kept."""
    older: dict[str, Adapter]
    """Those that stay."""

    @property
    def adapters(self) -> list[Adapter]:
        """All of them."""
        return [*self.older.values(), *self.new.values()]


def choose_adapters(run: Run, source: Path, root: Path, contents: Contents) -> Choice:
    """Choose what a new entry names: of each method or own case one, the older while it loads.

    Of the adapters that the run kept, the one of the same case comes first, then the smallest.
    Raises `InputError` for an adapter that is missing, was altered, or comes from another run.
    """
    kept = _kept_by_slot(run, source)
    before = _by_slot(root, contents)
    must_stay = not contents.has_addresses
    choice = Choice({}, {})
    for slot, older in before.items():
        record = run.cases.get(older.stored.case)
        if record is not None and record.definition != older.stored.definition:
            record = None
        loads = record is not None and record.invariants.get("stored_adapter_loads")
        if loads or (slot not in kept and (record is not None or must_stay)):
            choice.older[slot] = older
    for slot, found in sorted(kept.items()):
        if slot not in choice.older:
            case = before[slot].stored.case if slot in before else None
            choice.new[slot] = min(found, key=functools.partial(_preference, case))
    return choice


def _preference(case: str | None, adapter: Adapter) -> tuple[bool, int, str]:
    size = sum((adapter.folder / name).stat().st_size for name in adapter.stored.files)
    return adapter.stored.case != case, size, adapter.stored.case


def _kept_by_slot(run: Run, source: Path) -> dict[str, list[Adapter]]:
    kept: dict[str, list[Adapter]] = {}
    for adapter in _kept_by(run, source) if run.accepted is None else _named_by(run, source):
        record = run.cases[adapter.stored.case]
        slot = record.case.id if record.is_own else record.case.method
        kept.setdefault(slot, []).append(adapter)
    return kept


def _kept_by(run: Run, source: Path) -> Iterator[Adapter]:
    """Yield the adapters beside a run."""
    for path, stored in kept_adapters(source):
        if not _is_of(run, stored):
            raise InputError(f"{path}: comes from {stored.case} in another run. Remove the folder.")
        yield _new_adapter(path, msgspec.structs.replace(stored, packages=run.environment))


def _named_by(entry: Run, source: Path) -> Iterator[Adapter]:
    """Yield the adapters that an entry of another storage names of its own cases."""
    assert entry.accepted is not None  # noqa: S101  (an entry)
    for case, digest in entry.accepted.adapters.items():
        adapter = Adapter(digest, *_read_named(source.parent.parent, source, case, digest))
        if _is_of(entry, adapter.stored):
            yield adapter


def _is_of(run: Run, stored: StoredAdapter) -> bool:
    record = run.cases.get(stored.case)
    return record is not None and record.definition == stored.definition


def _by_slot(root: Path, contents: Contents) -> dict[str, Adapter]:
    """Return the adapters that a storage holds, by method or own case, the last that was named."""

    def slot(case: str) -> str:
        return case if case in contents.own else Case.parse(case).method

    if not contents.has_addresses:
        found = [_new_adapter(path, read_checked(path)) for path in old_folders(root)]
        return {slot(one.stored.case): one for one in found}
    named = {
        slot(case): (contents.links[index].path(root), case, digest)
        for case, (index, digest) in contents.adapter_of.items()
    }
    return {
        name: Adapter(digest, *_read_named(root, path, case, digest))
        for name, (path, case, digest) in named.items()
    }


def old_folders(root: Path) -> list[Path]:
    """Return the folders of adapters under the names of storages from before."""
    folder = root / "adapters"
    if not is_folder(folder):
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if not (ADDRESS.fullmatch(path.name) or TEMPORARY.fullmatch(path.name))
        and (path / MANIFEST).is_file()
    ]


def stored_adapter(root: Path, case: Case, definition: str) -> tuple[Path, StoredAdapter] | None:
    """Return the folder and the manifest of a case's stored adapter.

    None if there is none, or one of another definition. Raises `InputError` if an entry names one
    that is missing, or if it was altered.
    """
    named = _named_adapters(_entries_as_they_are(root))
    if named is not None:
        if case.id not in named:
            return None
        entry, digest = named[case.id]
        found = _read_named(root, entry, case.id, digest)
        return found if found[1].definition == definition else None
    for name in (own_folder(case), case.method):
        folder = root / "adapters" / name
        if is_folder(folder):
            stored = read_checked(folder)
            if (stored.case, stored.definition) == (case.id, definition):
                return folder, stored
    return None


def _read_named(root: Path, entry: Path, case: str, digest: str) -> tuple[Path, StoredAdapter]:
    folder = adapter_folder(root, digest)
    if not is_folder(folder):
        raise missing_adapter(entry, case, folder)
    return folder, read_stored(folder)


def read_stored(folder: Path, *, address: str = "") -> StoredAdapter:
    """Return the manifest of a stored adapter; its folder has the manifest's digest as its name.

    Raises `InputError` if a file was altered.
    """
    stored = read_checked(folder)
    found = digest_of(read_bytes(folder / MANIFEST)).removeprefix("sha256:")
    if found != (address or folder.name):
        raise InputError(
            f"{folder / MANIFEST}: was altered (sha256 {found}). "
            f"Restore it with `git checkout -- {folder}`."
        )
    return stored


_Stamp = tuple[tuple["Path", int, int], ...]
"""Entries, each with when it was written and its size."""


def _entries_as_they_are(root: Path) -> _Stamp:
    found = []
    for path in baseline_files(root):
        status = path.stat()
        found.append((path, status.st_mtime_ns, status.st_size))
    return tuple(found)


class _Accepted(msgspec.Struct):
    accepted: Acceptance | None = None


class _EntryHead(msgspec.Struct):
    peft_regress: _Accepted


@functools.lru_cache(maxsize=8)
def _named_adapters(stamp: _Stamp) -> dict[str, tuple[Path, str]] | None:
    """Return for each case the newest entry that names its adapter, and the adapter's digest.

    None for a storage from before. It reads only the acceptances; whoever judges checks the rest.
    """
    named: dict[str, tuple[Path, str]] = {}
    begun = False
    for path, _, _ in stamp:
        try:
            accepted = msgspec.json.decode(read_bytes(path), type=_EntryHead).peft_regress.accepted
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue  # the gate reports it
        if accepted is not None:
            begun = begun or has_addresses(accepted)
            named.update((case, (path, digest)) for case, digest in accepted.adapters.items())
    return named if begun else None
