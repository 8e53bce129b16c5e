"""What moved in a history beyond its bound: between which entries, which way, how far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from peft_regress.baselines.lines import STATUS, Entry
from peft_regress.gate.changes import can_compare
from peft_regress.gate.judge import judge_case
from peft_regress.gate.repeats import completed
from peft_regress.gate.verdicts import Observation, Verdict
from peft_regress.metrics import MetricSpec, metric_order
from peft_regress.runs.schema import Record

Records = Sequence[tuple[Entry, Record]]

Way = Literal["worse", "better"]

INVARIANT: Final = "invariant "
"""Stands before the name of an invariant where metrics are named too."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of one metric, invariant or status of one case that the gate would report."""

    case: str
    metric: str
    """A metric, `status`, or `invariant NAME`."""
    before: Entry
    """The last entry before it with a record to compare with."""
    entry: Entry
    """The entry in which it changed."""
    old: float | str | bool | None
    new: float | str | bool | None
    """None where a metric is absent, or an invariant is not checked or does not apply."""
    change: float | None = None
    """Of a metric: relative; of a fraction or a score the difference. None if `old` is zero, or if
    a side is absent."""
    way: Way
    spec: MetricSpec | None = None
    """Of a metric: what the number is."""


@dataclass(frozen=True, kw_only=True)
class Redefinition:
    """A case that an entry defines anew, so that nothing before can be compared with it."""

    case: str
    entry: Entry


_WAYS: Final[Mapping[Verdict, Way]] = {
    "newly_failing": "worse",
    "regressed": "worse",
    "improved": "better",
    "fixed": "better",
}


def find_moves(name: str, records: Records, metrics: Iterable[str]) -> list[Move]:
    """Return the moves of one case in some of its metrics, by metric and then by entry.

    `records` are oldest first; `metrics` are of `names_in(records)`. A move is what the gate says
    of a record by the one before it. So what no bound judges never moves: information, and counts
    of operators under another torch.
    """
    wanted, found = set(metrics), []
    for (before, old), (entry, new) in pairwise(_completed(records)):
        for reason in judge_case(name, _observed(before, old), _observed(entry, new)).reasons:
            way = _WAYS.get(reason.verdict)
            if way is not None and reason.metric in wanted:
                found.append(
                    Move(
                        case=name,
                        metric=reason.metric,
                        before=before,
                        entry=entry,
                        old=reason.old,
                        new=reason.new,
                        change=reason.relative_change,
                        way=way,
                        spec=reason.spec,
                    )
                )
    return sorted(found, key=lambda move: metric_order(move.metric))


def _completed(records: Records) -> Iterator[tuple[Entry, Record]]:
    """Yield records, those that repeat a training with its scores."""
    before: Record | None = None
    for entry, record in records:
        whole = completed(record, before) if before and record.is_repeat else record
        before = whole
        yield entry, whole


def _observed(entry: Entry, record: Record) -> Observation:
    run = entry.run
    return Observation(
        record=record,
        environment=run.environment,
        machine=run.machine,
        run_name=entry.name,
        known=run.known,
    )


def names_in(records: Records) -> set[str]:
    """Return what may move in a case: its metrics, its invariants and its status."""
    found = {STATUS}
    for _, record in records:
        found |= record.metrics.keys()
        found |= {f"{INVARIANT}{name}" for name in record.invariants}
    return found


def find_redefinitions(by_case: Mapping[str, Records]) -> list[Redefinition]:
    """Return where the definition of a case changed."""
    return [
        Redefinition(case=name, entry=entry)
        for name, records in by_case.items()
        for (_, old), (entry, new) in pairwise(records)
        if old.definition != new.definition
    ]


def is_judged(records: Records, name: str, *positions: int | None) -> bool:
    """Return whether a bound applies between positions: another torch may use other operators."""
    known = (records[position][0] for position in positions if position is not None)
    return can_compare(name, (entry.run.environment.get("torch") for entry in known))
