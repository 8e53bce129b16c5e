"""Choose what judges each case: the newest entry of role `baseline` that holds it."""

from __future__ import annotations

import dataclasses
import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from peft_regress.baselines.chain import acceptance_of, in_order
from peft_regress.baselines.entries import read_runs
from peft_regress.errors import UnknownNameError
from peft_regress.gate.drift import find_origins
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.run_file import read_run_file, with_stored_ledgers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile


def newest_references(stored: Iterable[RunFile]) -> dict[str, Observation]:
    """Return each case of the newest entry of role `baseline` that holds it, by id.

    A case that an entry retires is left out, unless a later entry holds it again.
    """
    return {name: history[-1] for name, history in _histories(stored).items()}


def references_with_drift(
    stored: Iterable[RunFile], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Observation]:
    """Return the same cases, each with the older entries that its drift counts from."""
    references = {}
    for name, history in _histories(stored).items():
        origins = find_origins(((old.run_name, old.record) for old in history), policy=policy)
        references[name] = dataclasses.replace(history[-1], drift_origins=origins)
    return references


def _histories(stored: Iterable[RunFile]) -> dict[str, list[Observation]]:
    """Return each case's observations in the entries of role `baseline`, oldest first."""
    histories: dict[str, list[Observation]] = {}
    for entry in in_order(stored):
        accepted = acceptance_of(entry)
        if accepted.role == "baseline":
            for name in accepted.retired:
                histories.pop(name, None)
            for name, observation in observations_of(entry.run, entry.path.stem).items():
                histories.setdefault(name, []).append(observation)
    return histories


def read_references(root: Path, *, drift: bool = False) -> dict[str, Observation]:
    """Return what judges each case of a storage, by id, with the ledgers of these records alone.

    drift: with the older entries that it counts from. Raises what `read_runs` raises, also for a
    ledger that was altered.
    """
    stored = read_runs(root, ledgers=False)
    references = references_with_drift(stored) if drift else newest_references(stored)
    for entry in stored:
        mine = [
            name
            for name, record in entry.run.cases.items()
            if name in references and references[name].record is record
        ]
        if mine:
            records = _whole(entry, mine).run.cases
            for name in mine:
                references[name] = dataclasses.replace(references[name], record=records[name])
    return references


def _whole(entry: RunFile, names: Collection[str]) -> RunFile:
    """Return an entry with the ledgers of some cases; those of an old one are in its file."""
    if acceptance_of(entry).entry:
        return with_stored_ledgers(entry, names)
    return read_run_file(entry.path)


def retirable_cases(stored: Iterable[RunFile], patterns: Iterable[str]) -> list[str]:
    """Return the ids of expected cases that match one of the globs, sorted.

    Raises `UnknownNameError` for a glob that matches none; it names a few expected cases.
    """
    expected = sorted(newest_references(stored))
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in expected if fnmatchcase(name, pattern)]
        if not fitting:
            kind = "case pattern"
            few = difflib.get_close_matches(pattern, expected, n=3) or expected[:3]
            raise UnknownNameError(kind, pattern, few)
        found.update(fitting)
    return sorted(found)
