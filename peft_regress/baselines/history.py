"""The history of cases: all entries, and the lines of the cases and metrics that globs select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from peft_regress.baselines.current import Contents, check_whole
from peft_regress.baselines.history_changes import (
    INVARIANT,
    Move,
    Redefinition,
    find_moves,
    find_redefinitions,
    names_in,
)
from peft_regress.baselines.lines import STATUS, Entry, Line, make_line
from peft_regress.baselines.named_runs import find_input
from peft_regress.baselines.references import as_confirmed
from peft_regress.baselines.storage import read_entries_of, read_while_still
from peft_regress.errors import AbsentError, InputError
from peft_regress.files import is_folder, resolved
from peft_regress.gate.repeats import completed
from peft_regress.metrics import METRICS, metric_order
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Record, Run
from peft_regress.text import clean

_PRESENCE: Final = {"run": 2, "baseline": 1, "history": 0}
"""Which role of an entry shows a case's present numbers first."""


@dataclass(frozen=True, kw_only=True)
class CaseHistory:
    """All lines of one case, in the order of `METRICS`."""

    id: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What moved beyond its bound in some cases of a history."""

    entries: tuple[Entry, ...]
    cases: tuple[str, ...]
    """All cases that were looked at, also those without a move."""
    found: tuple[Move, ...]
    redefined: tuple[Redefinition, ...]


def read_entries(root: Path, runs: Sequence[str]) -> list[Entry]:
    """Return the entries of a storage in their order, then the named runs in their order.

    Records come without ledgers, which no history shows. Raises `AbsentError` if there is nothing
    to read, `InputError` for a name of nothing and for a run that is among the entries already.
    """
    entries = _stored_entries(root)
    known = {resolved(entry.path) for entry in entries if entry.path}
    for run in (find_input(root, name) for name in runs):
        if resolved(run.path) in known:
            raise InputError(f"{run.name} is named twice, or is an entry of {root}; name it once")
        known.add(resolved(run.path))
        file = run.read() if is_folder(run.path) else read_run_file(run.path, ledgers=False)
        date = str(file.document.get("datetime", ""))
        entries.append(Entry(name=run.name, date=date, role="run", run=file.run, path=run.path))
    if not entries:
        raise AbsentError(
            f"{root}: no entry there, and no run was named, so there is no history. "
            "Name another storage with --baselines, or name run files. `peft-regress accept` makes "
            "the first entry; those of the built-in cases are in a checkout of "
            "peft_regress."
        )
    return entries


def _stored_entries(root: Path) -> list[Entry]:
    """Read and check all entries of a storage; equal metrics of neighbours are shared."""

    def read(paths: Sequence[Path]) -> list[Entry]:
        contents, found = Contents(), list[Entry]()
        for file in read_entries_of(paths):
            contents.add(file)
            link, run = contents.links[-1], _shown(file.run)
            run = _sharing(run, found[-1].run) if found else run
            how = link.accepted
            found.append(
                Entry(name=link.stem, date=how.date, role=how.role, run=run, path=file.path)
            )
        check_whole(root, contents)
        return found

    return read_while_still(root, read)


def _shown(run: Run) -> Run:
    """Return what a history shows of a run: no inputs, and no names of what trains."""
    nothing = dict.fromkeys(("inputs", "trained", "curve"), msgspec.UNSET)
    cases = {name: msgspec.structs.replace(one, **nothing) for name, one in run.cases.items()}
    return msgspec.structs.replace(run, cases=cases)


def _sharing(run: Run, like: Run) -> Run:
    """Return a run that shares equal metrics with another one: most numbers never change."""
    cases = {}
    for name, record in run.cases.items():
        other = like.cases.get(name)
        if other is not None:
            metrics = {
                metric: known if (known := other.metrics.get(metric)) == found else found
                for metric, found in record.metrics.items()
            }
            record = msgspec.structs.replace(record, metrics=metrics)  # noqa: PLW2901
        cases[name] = record
    environment = like.environment if like.environment == run.environment else run.environment
    return msgspec.structs.replace(run, cases=cases, environment=environment)


def records_by_case(entries: Sequence[Entry]) -> dict[str, dict[int, Record]]:
    """Return the records of each case, by its id and then by the index of the entry.

    A case that an entry retires is left out, unless a later entry holds it again.
    """
    found: dict[str, dict[int, Record]] = {}
    for index, entry in enumerate(entries):
        for name in entry.run.accepted.retired if entry.run.accepted else ():
            found.pop(name, None)
        for name, record in entry.run.cases.items():
            found.setdefault(name, {})[index] = record
    return dict(sorted(found.items()))


def present_entries(entries: Sequence[Entry]) -> dict[str, int]:
    """Return for each case the index of the entry with its present numbers.

    That is the run that was named last, else the newest baseline, else the newest entry.
    """
    return {
        name: max(records, key=lambda index: (_PRESENCE[entries[index].role], index))
        for name, records in records_by_case(entries).items()
    }


def present_record(entries: Sequence[Entry], case: str, at: int) -> Record:
    """Return a case's record in an entry, with the scores of the entry that it repeats."""
    record = entries[at].run.cases[case]
    if not record.is_repeat:
        return record
    repeated = (
        entry.run.cases[case]
        for entry in entries
        if entry.name == record.repeated_run and case in entry.run.cases
    )
    return next((completed(record, trained) for trained in repeated), record)


def present_run(entries: Sequence[Entry]) -> Run:
    """Return the present numbers of all cases as one run, in the newest entry's environment."""
    cases = {
        name: present_record(entries, name, at) for name, at in present_entries(entries).items()
    }
    return msgspec.structs.replace(entries[-1].run, cases=cases, accepted=None)


def by_release(entries: Iterable[Entry], package: str) -> list[Entry]:
    """Sort entries by the release of a package; entries of one release keep their order.

    Use it if runs of old releases were accepted after those of newer ones. Raises `AbsentError` if
    the environment of an entry has no such package.
    """
    name = canonicalize_name(package)
    found = list(entries)
    for entry in found:
        if name not in entry.run.environment:
            known = ", ".join(map(clean, get_close_matches(name, entry.run.environment, n=3)))
            hint = f"; it has {known}" if known else ""
            raise AbsentError(f"--by {package}: {entry.name} was made without that package{hint}")
    return sorted(found, key=lambda entry: _release(entry.run.environment[name]))


def _release(text: str) -> tuple[bool, Version]:
    """Return a sort key; strings that are not versions sort first."""
    try:
        return True, Version(text)
    except InvalidVersion:
        return False, Version("0")


def select_cases(entries: Sequence[Entry], pattern: str) -> list[Entry]:
    """Return the entries with only the cases that match a glob.

    Raises `AbsentError` if none matches.
    """
    known = sorted({name for entry in entries for name in entry.run.cases})
    chosen = set(_matching(known, pattern))
    selected = []
    for entry in entries:
        cases = {name: record for name, record in entry.run.cases.items() if name in chosen}
        selected.append(replace(entry, run=msgspec.structs.replace(entry.run, cases=cases)))
    return selected


def _matching(known: Sequence[str], pattern: str) -> list[str]:
    chosen = [name for name in known if fnmatchcase(name, pattern)]
    if not chosen:
        few = ", ".join(map(clean, get_close_matches(pattern, known) or known[:3])) or "none"
        raise AbsentError(
            f"--cases {pattern!r} matches none of the {len(known)} cases in the history, e.g. {few}"
        )
    return chosen


def select_histories(
    entries: Iterable[Entry], *, case: str = "*", metric: str = "*"
) -> list[CaseHistory]:
    """Return the histories of the cases and metrics that two globs select.

    Raises `AbsentError` if a glob matches none.
    """
    by_case = _matching_records(entries, case)
    names = _matching_metrics({n: _metrics_of(records) for n, records in by_case.items()}, metric)
    return [
        CaseHistory(id=name, lines=tuple(make_line(records, found) for found in names[name]))
        for name, records in by_case.items()
    ]


def select_moves(entries: Sequence[Entry], *, case: str = "*", metric: str = "*") -> Moves:
    """Return what moved beyond its bound in the cases and metrics that two globs select.

    Raises `AbsentError` if a glob matches none.
    """
    by_case = _matching_records(entries, case)
    names = _matching_metrics(
        {n: sorted(names_in(records), key=metric_order) for n, records in by_case.items()}, metric
    )
    found = [
        move for name, records in by_case.items() for move in find_moves(name, records, names[name])
    ]
    return Moves(
        entries=tuple(entries),
        cases=tuple(by_case),
        found=tuple(found),
        redefined=tuple(find_redefinitions(by_case)),
    )


def moved_histories(moves: Moves) -> list[CaseHistory]:
    """Return the lines of what moved, but those of invariants, which have none."""
    lines: dict[str, dict[str, None]] = {}
    for move in moves.found:
        if not move.metric.startswith(INVARIANT):
            lines.setdefault(move.case, {})[move.metric] = None
    by_case = _series_by_case(moves.entries)
    return [
        CaseHistory(id=case, lines=tuple(make_line(by_case[case], name) for name in names))
        for case, names in lines.items()
    ]


def _series_by_case(entries: Iterable[Entry]) -> dict[str, list[tuple[Entry, Record]]]:
    """Return all records of each case, in the order of entries; those of retired cases too."""
    found: dict[str, list[tuple[Entry, Record]]] = {}
    for entry in entries:
        for name, record in entry.run.cases.items():
            found.setdefault(name, []).append((entry, record))
        for name, repeated in entry.run.accepted.repeats.items() if entry.run.accepted else ():
            # One that narrowing left out has no record here.
            if name in found:
                confirmed = as_confirmed(found[name][-1][1], repeated)
                found[name].append((entry, confirmed))
    return found


def _matching_records(
    entries: Iterable[Entry], pattern: str
) -> dict[str, list[tuple[Entry, Record]]]:
    by_case = _series_by_case(entries)
    return {name: by_case[name] for name in _matching(sorted(by_case), pattern)}


def _matching_metrics(names: Mapping[str, Sequence[str]], pattern: str) -> dict[str, list[str]]:
    """Return the metrics of each case that match a glob. Raises `AbsentError` if none does."""
    chosen = {
        case: [name for name in known if fnmatchcase(name, pattern)]
        for case, known in names.items()
    }
    if not any(chosen.values()):
        every = dict.fromkeys(name for known in names.values() for name in known)
        known = ", ".join(map(clean, every))
        raise AbsentError(
            f"--metric {pattern!r} matches none of the metrics of these cases: {known}"
        )
    return chosen


def _metrics_of(records: Sequence[tuple[Entry, Record]]) -> list[str]:
    """Return the names of a case's lines: its status unless always ok, then its metrics."""
    found = {name for _, record in records for name in record.metrics}
    ordered = [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
    always_ok = all(record.status == "ok" for _, record in records)
    return ordered if always_ok else [STATUS, *ordered]
