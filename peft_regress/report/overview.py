"""The newest numbers of all cases, and which cases no other one beats."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from peft_regress.metrics import format_value
from peft_regress.report.document import Section
from peft_regress.report.results import results
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peft_regress.report.table import Table
    from peft_regress.runs.schema import Record, Run

_COST = "peak_bytes"
_FRONT = "best accuracy for its peak memory at batch 1 (no other case is as accurate with less)"


def overview(run: Run, *, sources: str) -> list[Section | Table]:
    """Return the results and the fronts; `sources` names the runs that the numbers come from."""
    fronts = tuple(f"{name}: {', '.join(map(_point, front))}" for name, front in _fronts(run))
    return [
        Section(title=f"{count_of(len(run.cases), 'case')}, from {clean(sources)}"),
        results(run),
        *([Section(title=f"{_FRONT}:", body=fronts)] if fronts else []),
    ]


def pareto_front(records: Iterable[Record], cost: str) -> list[Record]:
    """Return the records that no other record beats, the cheapest first.

    One record beats another if it is at least as cheap and as accurate, and better in one of the
    two. Equal records are all returned; records without accuracy or without that cost are not.
    """
    known = [
        record
        for record in records
        if record.status == "ok" and {"accuracy", cost} <= record.metrics.keys()
    ]
    ordered = sorted(
        known,
        key=lambda record: (record.metrics[cost].value, -record.metrics["accuracy"].value),
    )
    front: list[Record] = []
    for record in ordered:
        best = front[-1] if front else record
        gain = record.metrics["accuracy"].value - best.metrics["accuracy"].value
        is_as_cheap = record.metrics[cost].value == best.metrics[cost].value
        if gain > 0 or (gain == 0 and is_as_cheap):
            front.append(record)
    return front


def _fronts(run: Run) -> list[tuple[str, Sequence[Record]]]:
    def group(record: Record) -> tuple[str, str]:
        return record.case.task, record.case.architecture

    grouped = groupby(sorted(run, key=group), key=group)
    fronts = [(clean(" on ".join(key[::-1])), pareto_front(found, _COST)) for key, found in grouped]
    return [(name, front) for name, front in fronts if front]


def _point(record: Record) -> str:
    case = record.case
    method = case.method if case.rank is None else f"{case.method}-r{case.rank}"
    accuracy = format_value(record.metrics["accuracy"].value, "fraction")
    return f"{clean(method)} ({accuracy}, {format_value(record.metrics[_COST].value, 'byte')})"
