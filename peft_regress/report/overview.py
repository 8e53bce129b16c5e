"""The present numbers of all cases, and which of them no other one beats."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from peft_regress.metrics import format_value
from peft_regress.report.markdown_syntax import escape_markdown, fenced
from peft_regress.report.results import results_table
from peft_regress.report.sentences import wrapped
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peft_regress.runs.schema import Record, Run

__all__ = ["overview_markdown", "overview_text", "pareto_front"]

_COST = "peak_bytes"
_FRONT = "best accuracy for its peak memory at batch 1: none is as accurate with less"


def overview_text(run: Run, *, sources: str) -> str:
    """Return the table of results and the fronts; `sources` says where the numbers are from."""
    fronts = [
        wrapped(f"  {place}: {', '.join(map(_point, front))}", indent="    ")
        for place, front in _fronts(run)
    ]
    blocks = [wrapped(f"{_counted(run)}, from {clean(sources)}"), results_table(run)]
    if fronts:
        blocks.append("\n".join([f"{_FRONT}:", *fronts]))
    return "\n\n".join(blocks)


def overview_markdown(run: Run, *, sources: str) -> str:
    """Return the same as GitHub-flavoured Markdown."""
    blocks = [f"{_counted(run)}, from {escape_markdown(clean(sources))}"]
    blocks.append(fenced(results_table(run), "text"))
    lines = [
        f"- {escape_markdown(place)}: {escape_markdown(', '.join(map(_point, front)))}"
        for place, front in _fronts(run)
    ]
    if lines:
        blocks += [f"{_FRONT}:", "\n".join(lines)]
    return "\n\n".join(blocks)


def pareto_front(records: Iterable[Record], cost: str) -> list[Record]:
    """Return the records that no other one beats: as cheap and as accurate, and better in one.

    Ascending by cost. Of equal ones each is there. Records without an accuracy or without that cost
    are on no front.
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


def _counted(run: Run) -> str:
    return "1 case" if len(run.cases) == 1 else f"{len(run.cases)} cases"


def _fronts(run: Run) -> list[tuple[str, Sequence[Record]]]:
    def place(record: Record) -> tuple[str, str]:
        return record.case.task, record.case.architecture

    grouped = groupby(sorted(run, key=place), key=place)
    fronts = [(clean(" on ".join(key[::-1])), pareto_front(found, _COST)) for key, found in grouped]
    return [(name, front) for name, front in fronts if front]


def _point(record: Record) -> str:
    case = record.case
    method = case.method if case.rank is None else f"{case.method}-r{case.rank}"
    accuracy = format_value(record.metrics["accuracy"].value, "fraction")
    return f"{clean(method)} ({accuracy}, {format_value(record.metrics[_COST].value, 'byte')})"
