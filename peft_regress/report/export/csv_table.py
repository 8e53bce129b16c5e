"""CSV by RFC 4180: one row for each case and metric."""

from __future__ import annotations

import csv
import io
import json
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
)

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001  (full width)
"""What a spreadsheet takes for a formula, full-width forms included."""


def csv_table(run: Run) -> str:
    """Return the header and the rows: numbers are exact and unscaled, `samples` are JSON.

    A case without metrics has one row, with its status and error. An apostrophe precedes text that
    a spreadsheet would take for a formula.
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
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


CSV: Final = register(Exporter(name="csv", write=lambda run: {"": csv_table(run)}))
