"""Choose what each case is judged by: the newest accepted baseline, or the one that was named."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peft_regress.baselines.entries import baseline_files, read_runs
from peft_regress.cases import split_case_id
from peft_regress.errors import AbsentError, InputError, UnknownNameError
from peft_regress.files import is_folder
from peft_regress.gate.drift import find_origins
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.runs.shards import read_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft_regress.runs.run_file import RunFile

__all__ = [
    "Named",
    "by_date",
    "find_named",
    "load_references",
    "named_case",
    "named_cases",
    "newest_references",
    "references_with_drift",
    "retirable_cases",
]


def load_references(root: Path, selector: str | None) -> dict[str, Observation]:
    """Return what each case is judged by.

    Without a selector: per case, the newest entry of role `baseline` in the storage `root`, with
    the older entries that drift counts from. With one: what `named_cases` finds, and that alone.
    Raises `InputError` where the selector fits nothing.
    """
    if selector is None:
        return references_with_drift(read_runs(root))
    try:
        return named_cases(root, selector)
    except AbsentError as error:
        msg = f"--regress-baseline {error}"
        raise InputError(msg) from None


def named_cases(root: Path, name: str) -> dict[str, Observation]:
    """Return the cases of what is named, by id; of a storage each case's newest baseline.

    Raises what `find_named` raises.
    """
    found = find_named(root, name)
    if found.is_storage:
        return newest_references(read_runs(found.path))
    return observations_of(read_run(found.path).run, found.origin)


class Named(NamedTuple):
    """What a name stands for, and how reports call it."""

    path: Path
    origin: str
    is_storage: bool


def find_named(root: Path, name: str) -> Named:
    """Find what is named: a run file, a folder of shards, a storage, or an entry of one.

    An entry is one of the storage `root`: `0003`, or `0003_peft-0.21.2`. Raises `AbsentError` where
    it is none of these, `InputError` for an empty name, which as a path would be the working
    directory.
    """
    if not name:
        msg = f"the name is empty: a run file, a folder or an entry of {root} is wanted"
        raise InputError(msg)
    path = Path(name)
    if is_folder(path) and baseline_files(path):
        return Named(path, str(path), is_storage=True)
    if os.path.exists(path):  # noqa: PTH110  (`Path.exists` raises for too long a name)
        return Named(path, str(path), is_storage=False)
    entries = baseline_files(root)
    named = [
        file for file in entries if name in (file.stem, file.name, file.stem.partition("_")[0])
    ]
    if len(named) == 1:
        return Named(named[0], named[0].stem, is_storage=False)
    known = ", ".join(file.stem for file in entries) or "none"
    what = "fits several entries" if named else "is no file and no entry"
    msg = f"{name!r} {what} of {root}. Entries: {known}."
    raise AbsentError(msg)


def named_case(root: Path, name: str, case: str) -> Observation:
    """Return one case of what is named, as `named_cases` finds it.

    Raises `InputError` for what is no case id, `AbsentError` where there is no such case.
    """
    split_case_id(case)
    cases = named_cases(root, name)
    if case not in cases:
        close = _closest(case, sorted(cases))
        hint = f" There are: {', '.join(close)}." if close else ""
        msg = f"{name} holds no case {case!r}; it holds {len(cases)}.{hint}"
        raise AbsentError(msg)
    return cases[case]


def newest_references(stored: Iterable[RunFile]) -> dict[str, Observation]:
    """Return per case the newest entry of role `baseline`, by date of acceptance.

    A case that an entry retires is in none of them, unless a later entry holds it again.
    """
    return {name: history[-1] for name, history in _histories(stored).items()}


def references_with_drift(
    stored: Iterable[RunFile], *, policy: Policy = DEFAULT_POLICY
) -> dict[str, Observation]:
    """Return the same, each with the older entries that the drift of its metrics counts from."""
    references = {}
    for name, history in _histories(stored).items():
        origins = find_origins(((old.run_name, old.record) for old in history), policy=policy)
        references[name] = dataclasses.replace(history[-1], drift_origins=origins)
    return references


def by_date(stored: Iterable[RunFile]) -> list[RunFile]:
    """Return entries in the order of their acceptance.

    A stable sort: of two accepted in the same second the later entry number is the newer.
    """
    return sorted(stored, key=_accepted_at)


def _histories(stored: Iterable[RunFile]) -> dict[str, list[Observation]]:
    """Return what the entries of role `baseline` hold, by case, oldest first."""
    histories: dict[str, list[Observation]] = {}
    for entry in by_date(stored):
        if entry.run.accepted is not None and entry.run.accepted.role == "baseline":
            for name in entry.run.accepted.retired:
                histories.pop(name, None)
            for name, observation in observations_of(entry.run, entry.path.stem).items():
                histories.setdefault(name, []).append(observation)
    return histories


def retirable_cases(root: Path, patterns: Iterable[str]) -> list[str]:
    """Return the ids that baselines expect and that a glob of `patterns` fits, sorted.

    Raises `UnknownNameError` for a glob that fits none, with a few that there are.
    """
    expected = sorted(newest_references(read_runs(root)))
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in expected if fnmatchcase(name, pattern)]
        if not fitting:
            kind = "case pattern"
            raise UnknownNameError(kind, pattern, _closest(pattern, expected))
        found.update(fitting)
    return sorted(found)


def _closest(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3) or known[:3]


def _accepted_at(entry: RunFile) -> dt.datetime:
    # Reading checked the date; only accepted entries are asked for it.
    accepted = entry.run.accepted
    date = accepted.date if accepted else "0001-01-01T00:00:00+00:00"
    return dt.datetime.fromisoformat(date)
