"""What moved in a history beyond its bound: between which entries, which way, how far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from peft_regress.baselines.lines import STATUS, Entry, jumps_of
from peft_regress.gate.changes import direction_of
from peft_regress.gate.facts import invariant_reason, status_reason
from peft_regress.gate.inputs import OF_INPUTS, first_difference
from peft_regress.gate.metric_judge import can_compare, is_shown_only
from peft_regress.gate.repeats import lacks_seeds
from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import METRICS, MetricSpec, metric_order
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


def find_moves(name: str, records: Records, metrics: Iterable[str]) -> Iterator[Move]:
    """Yield the moves of one case in some of its metrics, by metric and then by entry.

    `records` are oldest first; `metrics` are of `names_in(records)`. What no bound judges never
    moves: information, and counts of operators under another torch.
    """
    for metric in sorted(metrics, key=metric_order):
        if metric == STATUS:
            yield from _status_moves(name, records)
        elif metric.startswith(INVARIANT):
            yield from _invariant_moves(name, records, metric.removeprefix(INVARIANT))
        else:
            yield from _metric_moves(name, records, metric)


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


def _metric_moves(name: str, records: Records, metric: str) -> Iterator[Move]:
    found = [record.metrics.get(metric) for _, record in records]
    for jump in jumps_of(records, found, metric):
        new = found[jump.position]
        if jump.before is None or jump.change is None or new is None or new.kind == "info":
            continue
        before, after = records[jump.before], records[jump.position]
        if new.kind in OF_INPUTS and first_difference(before[1], after[1]) is not None:
            continue
        way = direction_of(jump.change, new)
        if way is not None and is_judged(records, metric, jump.before, jump.position):
            yield Move(
                case=name,
                metric=metric,
                before=before[0],
                entry=after[0],
                old=jump.change.old,
                new=jump.change.new,
                change=jump.change.relative,
                way=way,
                spec=new.spec,
            )
    if None in found:
        yield from _lost_or_added(name, records, metric)


def _lost_or_added(name: str, records: Records, metric: str) -> Iterator[Move]:
    """Yield where a metric is no longer measured, and where a cost is that was not."""
    able = [
        (entry, record)
        for entry, record in records
        if record.status == "ok"
        and not lacks_seeds(record, metric)
        and (metric in record.metrics or metric not in METRICS or metric in entry.run.known)
    ]
    for position, ((before, old), (entry, new)) in enumerate(pairwise(able)):
        was, now = old.metrics.get(metric), new.metrics.get(metric)
        either = now or was
        if either is None or (was and now) or old.definition != new.definition:
            continue
        is_worse = now is None or (now.kind == "exact" and metric in METRICS)
        if (
            is_worse
            and not is_shown_only(either)
            and is_judged(able, metric, position, position + 1)
        ):
            yield Move(
                case=name,
                metric=metric,
                before=before,
                entry=entry,
                old=None if was is None else was.value,
                new=None if now is None else now.value,
                way="worse",
                spec=either.spec,
            )


def _status_moves(name: str, records: Records) -> Iterator[Move]:
    for (before, old), (entry, new) in pairwise(records):
        if (reason := status_reason(old, new)) is not None:
            yield from _moved(name, reason, before, entry)


def _invariant_moves(name: str, records: Records, invariant: str) -> Iterator[Move]:
    """Yield where an invariant stopped or began to hold, or to be checked.

    An entry whose writer did not know the invariant says neither.
    """
    able = [
        (entry, record)
        for entry, record in records
        if record.status == "ok"
        and (invariant in record.invariants or invariant in entry.run.known)
    ]
    for (before, old), (entry, new) in pairwise(able):
        if old.definition != new.definition:
            continue
        if (reason := invariant_reason(invariant, old, new)) is not None:
            yield from _moved(name, reason, before, entry)


def _moved(name: str, reason: Reason, before: Entry, entry: Entry) -> Iterator[Move]:
    """Yield the move that a reason is, unless it says that a defect is still there."""
    if reason.verdict != "known_defect":
        yield Move(
            case=name,
            metric=reason.metric,
            before=before,
            entry=entry,
            old=reason.old,
            new=reason.new,
            way="better" if reason.verdict == "fixed" else "worse",
        )
