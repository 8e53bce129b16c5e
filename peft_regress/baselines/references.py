"""Choose what judges each case: the newest entry of role `baseline` that holds it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from peft_regress.baselines.chain import Link, in_order
from peft_regress.baselines.contents import Contents
from peft_regress.baselines.index import read_contents, read_contents_before, read_entry
from peft_regress.errors import UnknownNameError
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Observation
from peft_regress.runs.run_file import RunFile, with_stored_ledgers


def references_with_drift(
    stored: Iterable[RunFile], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Observation]:
    """Return each case of the newest entry of role `baseline` that holds it, by id.

    Each has the older entries that its drift counts from. A case that an entry retires is left out,
    unless a later entry holds it again.
    """
    contents = Contents(policy=policy)
    for entry in in_order(stored):
        contents.add(entry)
    return contents.references


def read_references(root: Path, *, drift: bool = False) -> dict[str, Observation]:
    """Return what judges each case of a storage, by id, with the ledgers of these records alone.

    drift: with the older entries that it counts from. Raises what `read_contents` raises, also for
    a ledger that was altered.
    """
    return _references(root, read_contents(root), drift=drift)


def read_references_before(root: Path, newest: Collection[Path]) -> dict[str, Observation]:
    """Read what judged each case, by drift too, before the newest entries were accepted."""
    return _references(root, read_contents_before(root, newest), drift=True)


def _references(root: Path, contents: Contents, *, drift: bool) -> dict[str, Observation]:
    references = contents.references
    for index, names in contents.judged_by.items():
        records = _whole(root, contents.links[index], names).run.cases
        for name in names:
            known = references[name]
            origins = known.drift_origins if drift else {}
            references[name] = dataclasses.replace(
                known, record=records[name], drift_origins=origins
            )
    return references


def _whole(root: Path, link: Link, names: Collection[str]) -> RunFile:
    """Return an entry with the ledgers of some cases; those of an old one are in its file."""
    if link.entry:
        return with_stored_ledgers(read_entry(root, link), names)
    return read_entry(root, link, ledgers=True)


def retirable_cases(contents: Contents, patterns: Iterable[str]) -> list[str]:
    """Return the ids of expected cases that match one of the globs, sorted.

    Raises `UnknownNameError` for a glob that matches none; it names a few expected cases.
    """
    expected = sorted(contents.judges)
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in expected if fnmatchcase(name, pattern)]
        if not fitting:
            kind = "case pattern"
            few = difflib.get_close_matches(pattern, expected, n=3) or expected[:3]
            raise UnknownNameError(kind, pattern, few)
        found.update(fitting)
    return sorted(found)
