"""A run as CSV by RFC 4180: one row for each case and metric."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from peft_regress.errors import AbsentError, InputError
from peft_regress.runs.schema import Record, Run
from peft_regress.text import clean, count_of, printable

COLUMNS: Final = (
    "case",
    "task",
    "method",
    "rank",
    "architecture",
    "status",
    "metric",
    "value",
    "unit",
    "direction",
    "kind",
    "samples",
    "error",
    "repeats",
)

_FORMULA: Final = re.compile("(?:^|;) *(?=[-=+@＝＋－＠])")  # noqa: RUF001  (full width)
"""Where a spreadsheet sees a formula begin, full-width forms included: half of the world's
spreadsheets split a row at semicolons."""


def narrow(run: Run, *, cases: str = "*", metric: str = "*") -> Run:
    """Return the run with only the cases and metrics that match two globs.

    A case in error or unsupported has no metrics, and stays. Raises `InputError` if the run has no
    case, `AbsentError` for a glob that matches nothing.
    """
    if not run.cases:
        raise InputError("the run has no case, so there is nothing to export")
    chosen = {name: record for name, record in run.cases.items() if fnmatchcase(name, cases)}
    if not chosen:
        some = ", ".join(clean(name) for name in list(run.cases)[:3])
        counted = count_of(len(run.cases), "case")
        raise AbsentError(
            f"--cases {cases!r} matches none of the {counted} of the run, e.g. {some}"
        )
    found = {name: _narrow_record(record, metric) for name, record in chosen.items()}
    known = dict.fromkeys(name for record in chosen.values() for name in record.metrics)
    if known and not any(record.metrics for record in found.values()):
        names = clean(", ".join(known), longest=2000)
        raise AbsentError(
            f"--metric {metric!r} matches none of the metrics of these cases: {names}"
        )
    return msgspec.structs.replace(run, cases=found)


def _narrow_record(record: Record, metric: str) -> Record:
    kept = {name: value for name, value in record.metrics.items() if fnmatchcase(name, metric)}
    return msgspec.structs.replace(record, metrics=kept)


def csv_table(run: Run) -> str:
    """Return the header and the rows: numbers are exact and unscaled, `samples` are JSON.

    A case without metrics has one row, with its status and error. A case that repeats another
    run names that run in each row. An apostrophe precedes what
    a spreadsheet would take for a formula, at the start of a text or after a semicolon.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for record in run:
        writer.writerows([row[column] for column in COLUMNS] for row in _rows(record))
    return stream.getvalue()


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    case, error = record.case, record.error
    common: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "case": _text(case.id),
        "task": _text(case.task),
        "method": _text(case.method),
        "rank": "" if case.rank is None else case.rank,
        "architecture": _text(case.architecture),
        "status": record.status,
        "error": "" if error is None else _text(f"{error.type}: {error.message}"),
        "repeats": _text(record.repeated_run or ""),
    }
    for name, metric in record.metrics.items():
        yield common | {
            "metric": _text(name),
            "value": metric.value,
            "unit": metric.unit,
            "direction": metric.direction,
            "kind": metric.kind,
            "samples": "" if metric.samples is None else json.dumps(metric.samples),
        }
    if not record.metrics:
        yield common


def csv_line(cells: Iterable[str | float]) -> str:
    """Return one row; what a spreadsheet would take for a formula is text."""
    stream = io.StringIO()
    csv.writer(stream).writerow(_text(cell) if isinstance(cell, str) else cell for cell in cells)
    return stream.getvalue()


def _text(text: str) -> str:
    """Return text from a file as one line that a spreadsheet takes for text."""
    # A blank breaks up what GitHub's runner takes for a command, anywhere in a line of its log.
    return _FORMULA.sub(r"\g<0>'", printable(text)).replace("##[", "## [")
