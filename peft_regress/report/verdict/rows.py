"""The rows of a verdict, one for each case: in columns if they fit, else in lines below its id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from peft_regress.gate.verdicts import Reason
from peft_regress.report.sentences import reason_cells
from peft_regress.report.table import Row as TableRow
from peft_regress.report.table import Table, column_widths, table_text
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.report.layout import Layout

_HEADINGS: Final = ("baseline", "this run", "change", "bound")
_INDENT: Final = "   "

Widths = tuple[int, ...]


class Row(NamedTuple):
    """What changed in a case."""

    title: str
    """The metric."""
    case: str
    cells: tuple[str, str, str, str]
    """Baseline, this run, change and bound, as shown."""


def row_of(case: str, reason: Reason) -> Row:
    """Return the row of one reason of a case."""
    title, *shown = reason_cells(reason)
    old, new, change, bound = shown
    return Row(title, clean(case), (old, new, change, bound))


def reading_order(row: Row) -> tuple[str, tuple[tuple[int, str], ...]]:
    """Return the key that sorts rows: by metric, and r4 before r16."""
    parts = re.findall(r"[0-9]+|[^0-9]+", row.case)
    return row.title, tuple((len(part) if part[0] in "0123456789" else 0, part) for part in parts)


def common_widths(tables: Iterable[Sequence[Row]], layout: Layout) -> Widths:
    """Return column widths that all tables share, as far as they fit."""
    widths = [_widths(rows, layout) for rows in tables]
    fitting = [one for one in widths if _total(one) <= layout.width]
    return tuple(map(max, zip(*fitting, strict=True)))


def rows_text(rows: Sequence[Row], layout: Layout, *, common: Widths) -> str:
    """Return a line for each row, under a heading for each metric."""
    own = _widths(rows, layout)
    least = tuple(map(max, zip(own, common or own, strict=True)))
    return "\n".join(table_text(one, layout, indent=_INDENT, least=least) for one in _tables(rows))


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    for title, group in groupby(rows, key=lambda row: row.title):
        cells = tuple(TableRow(cells=(row.case, *row.cells)) for row in group)
        yield Table(headings=(f"{title} of", *_HEADINGS), rows=cells, numbers=(1, 2, 3, 4))


def _widths(rows: Sequence[Row], layout: Layout) -> Widths:
    measured = [column_widths(one, layout) for one in _tables(rows)]
    return tuple(map(max, zip(*measured, strict=True)))


def _total(widths: Widths) -> int:
    return len(_INDENT) + sum(widths) + len("  ") * (len(widths) - 1)
