"""The adapters of a storage: under the digest of their manifest, named by entries.

A later release must still load them and compute the same output. A storage keeps one for each
built-in method, the smallest of its cases, and one for each case of a user's own. An entry goes on
naming an older adapter while that loads. This module imports no torch.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from peft_regress.baselines import run_adapters
from peft_regress.baselines.current import Contents, read_contents
from peft_regress.baselines.run_adapters import MANIFEST, StoredAdapter, manifest_content
from peft_regress.baselines.storage import adapter_folder, newest_file
from peft_regress.cases import Case
from peft_regress.errors import InputError
from peft_regress.files import read_bytes
from peft_regress.runs.schema import Run, digest_of


class NamedAdapter(NamedTuple):
    """An adapter that an entry names."""

    digest: str
    """Its address in a storage: that of its manifest, which has those of all its files."""
    folder: Path
    """Where its files are now: in the storage, or beside the run."""
    stored: StoredAdapter


class Choice(NamedTuple):
    """The adapters that an entry names, by what each stands for: a method, or an own case."""

    new: dict[str, NamedAdapter]
    """Those that the run kept."""
    older: dict[str, NamedAdapter]
    """Those that stay."""

    @property
    def adapters(self) -> list[NamedAdapter]:
        """All of them."""
        return [*self.older.values(), *self.new.values()]


def choose_adapters(run: Run, source: Path, root: Path, contents: Contents) -> Choice:
    """Choose what a new entry names: of each method or own case one, the older while it loads.

    Of the adapters that the run kept, the one of the same case comes first, then the smallest.
    Raises `InputError` for an adapter that is missing, was altered, or comes from another run.
    """
    kept: dict[str, list[NamedAdapter]] = {}
    for adapter in _kept_by(run, source) if run.accepted is None else _named_by(run, source):
        record = run.cases[adapter.stored.case]
        slot = record.case.id if record.is_own else record.case.method
        kept.setdefault(slot, []).append(adapter)
    named = {
        (case if case in contents.own else Case.parse(case).method): digest
        for case, digest in contents.adapter_of.items()
    }
    # By method or own case, the last that was named.
    before = {slot: _read_named(root, digest) for slot, digest in named.items()}
    choice = Choice({}, {})
    for slot, older in before.items():
        if run_adapters.is_of(run, older.stored):
            loads = run.cases[older.stored.case].invariants.get("stored_adapter_loads")
            if loads or slot not in kept:
                choice.older[slot] = older
    for slot, found in sorted(kept.items()):
        if slot not in choice.older:
            case = before[slot].stored.case if slot in before else None
            choice.new[slot] = min(found, key=functools.partial(_preference, case))
    return choice


def _preference(case: str | None, adapter: NamedAdapter) -> tuple[bool, int, str]:
    size = sum((adapter.folder / name).stat().st_size for name in adapter.stored.files)
    return adapter.stored.case != case, size, adapter.stored.case


def _kept_by(run: Run, source: Path) -> Iterator[NamedAdapter]:
    """Yield the adapters beside a run."""
    for folder in sorted(one for at in run_adapters.kept_beside(source) for one in at.iterdir()):
        kept = run_adapters.read_checked(folder)
        if not run_adapters.is_of(run, kept):
            raise InputError(f"{folder}: comes from {kept.case} in another run. Remove the folder.")
        stored = msgspec.structs.replace(kept, packages=run.environment)
        yield NamedAdapter(digest_of(manifest_content(stored)), folder, stored)


def _named_by(entry: Run, source: Path) -> Iterator[NamedAdapter]:
    """Yield the adapters that an entry of another storage names of its own cases."""
    assert entry.accepted is not None  # noqa: S101  (an entry)
    for digest in entry.accepted.adapters.values():
        adapter = _read_named(source.parent.parent, digest)
        if run_adapters.is_of(entry, adapter.stored):
            yield adapter


def stored_adapter(root: Path, case: Case, definition: str) -> tuple[Path, StoredAdapter] | None:
    """Return the folder and the manifest of a case's stored adapter.

    None if there is none, or one of another definition. Raises `InputError` if an entry names one
    that is missing, or if it was altered.
    """
    newest = newest_file(root)
    contents = _contents(root, read_bytes(newest) if newest.exists() else b"")
    judging, named = contents.judges.get(case.id), contents.adapter_of.get(case.id)
    if judging is None or named is None:
        return None
    found = _read_named(root, named)
    return (found.folder, found.stored) if found.stored.definition == definition else None


@functools.lru_cache(maxsize=2)
def _contents(root: Path, _newest: bytes) -> Contents:
    """Read what judges once for all cases of a run, as long as no entry is accepted."""
    return read_contents(root)


def _read_named(root: Path, digest: str) -> NamedAdapter:
    """Read an adapter; its folder has the manifest's digest as its name."""
    folder = adapter_folder(root, digest)
    stored = run_adapters.read_checked(folder)
    found = digest_of(read_bytes(folder / MANIFEST))
    if found != digest:
        raise InputError(
            f"{folder / MANIFEST}: was altered ({found}). "
            f"Restore it with `git checkout -- {folder}`."
        )
    return NamedAdapter(digest, folder, stored)


def store_adapter(root: Path, adapter: NamedAdapter) -> None:
    """Write an adapter unless the storage has it. Raises `InputError`."""
    target = adapter_folder(root, adapter.digest)
    if not (target / MANIFEST).exists():
        files = {name: read_bytes(adapter.folder / name) for name in adapter.stored.files}
        run_adapters.write_adapter(target, {**files, MANIFEST: manifest_content(adapter.stored)})
