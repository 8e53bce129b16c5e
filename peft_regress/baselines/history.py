"""The history of cases: all entries, and what moved in them beyond its bound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from peft_regress.baselines.current import Contents, read_contents
from peft_regress.baselines.named_runs import find_input
from peft_regress.baselines.references import as_confirmed
from peft_regress.baselines.storage import acceptance_of
from peft_regress.errors import AbsentError
from peft_regress.gate.judge import judge_case
from peft_regress.gate.repeats import completed
from peft_regress.gate.verdicts import Observation, Reason, Verdict
from peft_regress.metrics import metric_order
from peft_regress.runs.run_file import RunFile, with_unread_ledgers
from peft_regress.runs.schema import Record, Role, Run
from peft_regress.text import clean

_PRESENCE: Final = {"run": 2, "baseline": 1, "history": 0}
"""Which role of an entry shows a case's present numbers first."""

_DAY: Final = len("2026-01-01")
Way = Literal["worse", "better"]
WAYS: Final[Mapping[Verdict, Way]] = {
    "newly_failing": "worse",
    "regressed": "worse",
    "improved": "better",
    "fixed": "better",
}
"""The verdicts on one entry by another that are moves."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run in the history: an entry of the storage, or a run that was named."""

    name: str
    date: str
    role: Role | Literal["run"]
    run: Run
    path: Path
    references: Mapping[str, Observation] = field(default_factory=dict)
    """What judged each case before it, with the older entries that drift counts from."""

    @property
    def day(self) -> str:
        """The date without the time, ready to show."""
        return clean(self.date[:_DAY])


Series = Mapping[int, Record]
"""The records of one case by the index of their entry, in an order of the entries."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of one metric, invariant or status of one case that the gate would report."""

    case: str
    before: int
    """The index of the last entry before it with a record to compare with."""
    entry: int
    """The index of the entry in which it changed."""
    reason: Reason
    way: Way


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What moved beyond its bound in some cases of a history."""

    entries: tuple[Entry, ...]
    cases: Mapping[str, Series]
    """All cases that were looked at, also those without a move."""
    metrics: Mapping[str, Sequence[str]]
    """By case, what was looked at: its metrics, its invariants and its status."""
    found: tuple[Move, ...]
    redefined: tuple[tuple[str, int], ...]
    """Cases that an entry defines anew, so that nothing before can be compared with it."""


def read_entries(root: Path, runs: Sequence[str]) -> list[Entry]:
    """Return the entries of a storage in their order, then the named runs in their order.

    The records of entries read their ledgers when they are asked for. Raises `AbsentError` if there
    is nothing to read, `InputError` for a name of nothing.
    """
    stored = dict[Path, Entry]()

    def see(file: RunFile, before: Contents) -> RunFile:
        file = with_unread_ledgers(file)
        name, how = file.path.stem, acceptance_of(file)
        entry = Entry(name=name, date=how.date, role=how.role, run=file.run, path=file.path)
        stored[file.path] = replace(entry, references=dict(before.judges))
        return file

    contents = read_contents(root, see=see)
    entries = [stored[link.path(root)] for link in contents.links]
    for run in (find_input(root, name) for name in runs):
        file = run.read()
        date = str(file.document.get("datetime", ""))
        entry = Entry(name=run.name, date=date, role="run", run=file.run, path=run.path)
        entries.append(replace(entry, references=contents.judges))
    if not entries:
        raise AbsentError(
            f"{root}: no entry there, and no run was named, so there is no history. "
            "Name another storage with --baselines, or name run files. `peft-regress accept` makes "
            "the first entry; those of the built-in cases are in a checkout of "
            "peft_regress."
        )
    return entries


def records_by_case(
    entries: Sequence[Entry], *, confirmed: bool = False
) -> dict[str, dict[int, Record]]:
    """Return the records of each case, by its id and then by the index of the entry.

    A case that an entry retires is left out, unless a later entry holds it again. `confirmed`:
    entries that only confirm a case hold it too.
    """
    found: dict[str, dict[int, Record]] = {}
    for index, entry in enumerate(entries):
        accepted = entry.run.accepted
        for name in accepted.retired if accepted else ():
            found.pop(name, None)
        for name, record in entry.run.cases.items():
            found.setdefault(name, {})[index] = record
        for name, repeated in accepted.repeats.items() if accepted and confirmed else ():
            # One that narrowing left out has no record here.
            if records := found.get(name):
                records[index] = as_confirmed(records[max(records)], repeated)
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


def present_records(entries: Sequence[Entry]) -> dict[str, Record]:
    """Return the present numbers of all cases."""
    present = present_entries(entries).items()
    return {name: present_record(entries, name, at) for name, at in present}


def select_cases(entries: Sequence[Entry], pattern: str) -> list[Entry]:
    """Return the entries with the cases that match a glob. Raises `AbsentError` if none does."""
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


def select_moves(entries: Sequence[Entry], *, case: str = "*", metric: str = "*") -> Moves:
    """Return what moved beyond its bound in the cases and metrics that two globs select.

    Raises `AbsentError` if a glob matches none.
    """
    every = records_by_case(entries, confirmed=True)
    cases = {name: _completed(every[name]) for name in _matching(list(every), case)}
    known = {name: _names_in(records) for name, records in cases.items()}
    metrics = {
        name: [one for one in names if fnmatchcase(one, metric)] for name, names in known.items()
    }
    if not any(metrics.values()):
        names = ", ".join(map(clean, dict.fromkeys(one for some in known.values() for one in some)))
        problem = f"--metric {metric!r} matches none of the metrics of these cases: {names}"
        raise AbsentError(problem)
    moved = [
        move
        for name, records in cases.items()
        for pair in pairwise(records)
        for move in moves_between(entries, name, records, pair)
        if move.reason.name in metrics[name]
    ]
    return Moves(
        entries=tuple(entries),
        cases=cases,
        metrics=metrics,
        found=tuple(moved),
        redefined=tuple(
            (name, new)
            for name, records in cases.items()
            for old, new in pairwise(records)
            if records[old].definition != records[new].definition
        ),
    )


def moves_between(
    entries: Sequence[Entry], case: str, records: Series, pair: tuple[int, int]
) -> Iterator[Move]:
    """Yield what the gate says of a case in one entry by an earlier one: what moved.

    So what no bound judges never moves: information, and counts of operators under another torch.
    """
    sides = (
        Observation(
            # No inputs, and no names of what trains.
            record=msgspec.structs.replace(
                records[at], inputs=UNSET, trained=UNSET, curve=UNSET, referee=UNSET
            ),
            environment=entries[at].run.environment,
            machine=entries[at].run.machine,
            run_name=entries[at].name,
            known=entries[at].run.known,
        )
        for at in pair
    )
    for reason in judge_case(case, *sides).reasons:
        way = WAYS.get(reason.verdict)
        if way is not None:
            yield Move(case=case, before=pair[0], entry=pair[1], reason=reason, way=way)


def _completed(records: Series) -> dict[int, Record]:
    """Return records, those that repeat a training with its scores."""
    found: dict[int, Record] = {}
    before: Record | None = None
    for index, record in records.items():
        before = completed(record, before) if before and record.is_repeat else record
        found[index] = before
    return found


def _names_in(records: Series) -> list[str]:
    """Return what may move in a case: its metrics, its invariants and its status."""
    found = {"status"}
    for record in records.values():
        found |= record.metrics.keys()
        found |= {f"invariant {name}" for name in record.invariants}
    return sorted(found, key=metric_order)
