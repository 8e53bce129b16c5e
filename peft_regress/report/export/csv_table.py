"""CSV by RFC 4180: one row for each case and metric."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Final

from peft_regress.report.export.exporter import Exporter, register
from peft_regress.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.runs.schema import Record, Run

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


def _text(text: str) -> str:
    """Return text from a file as one line that a spreadsheet takes for text."""
    # A blank breaks up what GitHub's runner takes for a command, anywhere in a line of its log.
    return _FORMULA.sub(r"\g<0>'", printable(text)).replace("##[", "## [")


CSV: Final = register(Exporter(name="csv", write=lambda run: {"": csv_table(run)}))
