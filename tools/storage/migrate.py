"""Rewrite a baseline storage from before entries had a chain, and prove that it judges the same.

    python tools/storage/migrate.py baselines            # writes a copy, proves it, prints sizes
    python tools/storage/migrate.py baselines --write    # and puts it in the storage's place

Names, dates, reasons and roles stay. Each entry keeps the digest that it had as `old_digest`, names
its predecessor, and has its ledgers in files of their own; adapters get addresses. Every pair of
entries, and the storage with every entry, must give the same verdict before and after, every record
must be equal with its ledger, and every case must find the same adapter.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.baselines.adapters import manifest_content, read_checked
from peft_regress.baselines.chain import Newest, acceptance_of, entry_name, write_newest
from peft_regress.baselines.current import write_current
from peft_regress.baselines.entries import read_runs
from peft_regress.baselines.index import read_contents
from peft_regress.baselines.objects import store_adapter, store_ledger
from peft_regress.baselines.references import references_with_drift
from peft_regress.baselines.stored_adapters import (
    Adapter,
    old_folders,
    read_stored,
    stored_adapter,
)
from peft_regress.errors import PeftRegressError
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.locks import opened_lock
from peft_regress.report import encode_verdict
from peft_regress.runs.ledgers import with_digests
from peft_regress.runs.run_file import read_run_file, write_run_file
from peft_regress.runs.schema import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.gate.verdicts import Observation
    from peft_regress.runs.run_file import RunFile

_KEPT = ("sources",)
"""What a migration does not touch."""


def main() -> int:
    """Migrate, prove, print; return 0, or 2 if the storage cannot be read or judges otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("storage", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the storage")
    chosen = parser.parse_args()
    root: Path = chosen.storage
    try:
        with opened_lock(root / ".lock") as lock, tempfile.TemporaryDirectory(dir=root.parent) as t:
            lock.own()
            target = Path(t) / "migrated"
            migrate(root, target)
            print(f"proved: {prove(root, target)}")
            for name, folder in (("before", root), ("after", target)):
                print(f"{name}: {size_of(folder)}")
            if chosen.write:
                replace(root, target)
                print(f"wrote {root}")
    except PeftRegressError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def migrate(root: Path, target: Path) -> None:
    """Write a storage in its new form into another folder."""
    adapters = _adapters_to_name(root)
    before: RunFile | None = None
    for old in read_runs(root):
        accepted = acceptance_of(old)
        path = target / old.path.relative_to(root)
        run = with_digests(
            msgspec.structs.replace(
                old.run,
                accepted=msgspec.structs.replace(
                    accepted,
                    entry=entry_name(path),
                    predecessor="" if before is None else before.run.content_digest,
                    adapters=accepted.adapters or adapters.get(entry_name(path), {}),
                    old_digest=accepted.old_digest or old.run.content_digest,
                ),
            )
        )
        for digest, ledger in run.ledgers.items():
            store_ledger(target, digest, ledger)
        write_run_file(path, run, old.document, ledgers=False)
        before = read_run_file(path, ledgers=False)
    if before is not None:
        newest = Newest(entry=entry_name(before.path), digest=before.run.content_digest)
        write_newest(target, newest)
    for adapter in _adapters_in(root):
        store_adapter(target, adapter)
    write_current(target, read_contents(target, current=False))


def _adapters_in(root: Path) -> list[Adapter]:
    """Return all adapters of a storage, with the addresses that they have or get."""
    old = old_folders(root)
    named = {
        digest: root / "adapters" / digest.removeprefix("sha256:")
        for entry in read_runs(root, ledgers=False)
        for digest in acceptance_of(entry).adapters.values()
    }
    found = [Adapter(digest, folder, read_stored(folder)) for digest, folder in named.items()]
    for folder in old if not named else []:
        stored = read_checked(folder)
        found.append(Adapter(digest_of(manifest_content(stored)), folder, stored))
    return found


def _adapters_to_name(root: Path) -> dict[str, dict[str, str]]:
    """Return which entry names which adapters: of each case the newest that holds it and judges."""
    entries = [
        one for one in read_runs(root, ledgers=False) if acceptance_of(one).role == "baseline"
    ]
    found: dict[str, dict[str, str]] = {}
    for adapter in _adapters_in(root):
        case, definition = adapter.stored.case, adapter.stored.definition
        holders = [
            one
            for one in entries
            if case in one.run.cases and one.run.cases[case].definition == definition
        ]
        holder = (holders or entries)[-1]
        found.setdefault(entry_name(holder.path), {})[case] = adapter.digest
    return found


def prove(root: Path, target: Path) -> str:
    """Compare all that two storages hold and judge; return what was compared.

    Raises `PeftRegressError` at the first difference.
    """
    old, new = read_runs(root), read_runs(target)
    _same("names", *([entry_name(one.path) for one in side] for side in (old, new)))
    for before, after in zip(old, new, strict=True):
        _same(f"{after.path.stem}: its content", _content(before), _content(after))
    pairs = 0
    sides = [
        {"the storage": references_with_drift(side)}
        | {one.path.stem: observations_of(one.run, one.path.stem) for one in side}
        for side in (old, new)
    ]
    for name in sides[0]:
        for before, after in zip(old, new, strict=True):
            verdicts = [
                _verdict(side[name], one) for side, one in zip(sides, (before, after), strict=True)
            ]
            _same(f"the verdict of {name} on {after.path.stem}", *verdicts)
            pairs += 1
    adapters = 0
    for one in old:
        for record in one.run:
            found = [
                stored_adapter(side, record.case, record.definition) for side in (root, target)
            ]
            contents = [
                found_one
                and (found_one[1], {n: (found_one[0] / n).read_bytes() for n in found_one[1].files})
                for found_one in found
            ]
            _same(f"{one.path.stem}: the adapter of {record.case.id}", *contents)
            adapters += found[0] is not None
    records = sum(len(one.run.cases) for one in old)
    return (
        f"{len(old)} entries with {records} records and their ledgers equal, {pairs} verdicts "
        f"equal, {adapters} look-ups of adapters equal"
    )


def _content(entry: RunFile) -> tuple[Any, ...]:
    """Return what must stay of an entry."""
    run, accepted = entry.run, acceptance_of(entry)
    return (
        run.cases,
        run.environment,
        run.machine,
        run.selection,
        run.known,
        (accepted.reason, accepted.date, accepted.role, accepted.retired),
        entry.document,
    )


def _verdict(references: Mapping[str, Observation], entry: RunFile) -> dict[str, Any]:
    observed = observations_of(entry.run, entry.path.stem)
    complete = entry.run.selection.complete
    return encode_verdict(judge(references, observed, complete=complete))


def _same(what: str, before: object, after: object) -> None:
    if before != after:
        msg = f"{what} is not the same before and after; nothing was replaced"
        raise PeftRegressError(msg)


def size_of(root: Path) -> str:
    """Return the sizes of a storage's parts, without its sources."""
    sizes: dict[str, int] = {"entries": 0}
    for path in root.rglob("*"):
        part = path.relative_to(root).parts[0]
        if path.is_file() and part not in _KEPT:
            part = part if part in {"ledgers", "adapters"} else "entries"
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
    return ", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items())


def replace(root: Path, target: Path) -> None:
    """Put a migrated storage in the place of another; git has what was there."""
    for path in root.iterdir():
        if path.is_dir() and path.name not in _KEPT:
            shutil.rmtree(path)
    for path in target.iterdir():
        path.rename(root / path.name)


if __name__ == "__main__":
    sys.exit(main())
