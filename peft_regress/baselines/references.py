"""Choose what judges each case: the newest entry of role `baseline` that holds it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from peft_regress.baselines.entries import read_runs
from peft_regress.errors import UnknownNameError
from peft_regress.gate.drift import find_origins
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Observation, observations_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Acceptance


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


def by_date(stored: Iterable[RunFile]) -> list[RunFile]:
    """Sort entries by the date of acceptance; of the same second, by number."""
    return sorted(stored, key=lambda entry: dt.datetime.fromisoformat(_acceptance(entry).date))


def _histories(stored: Iterable[RunFile]) -> dict[str, list[Observation]]:
    """Return each case's observations in the entries of role `baseline`, oldest first."""
    histories: dict[str, list[Observation]] = {}
    for entry in by_date(stored):
        accepted = _acceptance(entry)
        if accepted.role == "baseline":
            for name in accepted.retired:
                histories.pop(name, None)
            for name, observation in observations_of(entry.run, entry.path.stem).items():
                histories.setdefault(name, []).append(observation)
    return histories


def retirable_cases(root: Path, patterns: Iterable[str]) -> list[str]:
    """Return the ids of expected cases that match one of the globs, sorted.

    Raises `UnknownNameError` for a glob that matches none; it names a few expected cases.
    """
    expected = sorted(newest_references(read_runs(root)))
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in expected if fnmatchcase(name, pattern)]
        if not fitting:
            kind = "case pattern"
            few = difflib.get_close_matches(pattern, expected, n=3) or expected[:3]
            raise UnknownNameError(kind, pattern, few)
        found.update(fitting)
    return sorted(found)


def _acceptance(entry: RunFile) -> Acceptance:
    assert entry.run.accepted is not None  # noqa: S101  (`read_runs` refuses other entries)
    return entry.run.accepted
