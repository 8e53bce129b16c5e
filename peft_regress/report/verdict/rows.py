"""The rows of a verdict, one for each case: in columns if they fit, else in lines below its id."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from peft_regress.report.layout import cells
from peft_regress.report.sentences import reason_cells
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peft_regress.gate.verdicts import Reason
    from peft_regress.report.layout import Layout

__all__ = ["Row", "Widths", "common_widths", "reading_order", "row_of", "rows_text"]

_HEADINGS: Final = ("baseline", "this run", "change", "bound")
_GAP: Final = "  "
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


def common_widths(tables: Iterable[Sequence[Row]], layout: Layout) -> Widths | None:
    """Return column widths that all tables that fit can share; None if those do not fit."""
    measured = [_widths(rows, layout) for rows in tables]
    fitting = [widths for widths in measured if _total(widths) <= layout.width]
    common = tuple(map(max, zip(*fitting, strict=True)))
    return common if fitting and _total(common) <= layout.width else None


def rows_text(rows: Sequence[Row], layout: Layout, *, common: Widths | None) -> str:
    """Return one line for each row under a heading for each metric; several lines if too wide."""
    own = _widths(rows, layout)
    widths = tuple(map(max, zip(own, common or own, strict=True)))
    if _total(widths) > layout.width:
        widths = own
    draw = _stacked if _total(widths) > layout.width else _aligned
    lines = []
    for title, group in groupby(rows, key=lambda row: row.title):
        lines += draw(title, list(group), widths, layout)
    return "\n".join(lines)


def _aligned(title: str, rows: Sequence[Row], widths: Widths, layout: Layout) -> list[str]:
    table = [(f"{title} of", *_HEADINGS), *((row.case, *row.cells) for row in rows)]
    used = [index for index in range(len(widths)) if any(line[index] for line in table[1:])]
    lines = []
    for line in table:
        padded = [_padded(layout.shown(line[index]), widths[index], index) for index in used]
        lines.append((_INDENT + _GAP.join(padded)).rstrip())
    return lines


def _stacked(title: str, rows: Sequence[Row], _: Widths, layout: Layout) -> list[str]:
    lines = [f"{title} of"]
    for row in rows:
        old, new, change, bound = row.cells
        lines += [row.case, f"  {old} -> {new}"]
        if change or bound:
            lines.append(f"  {change} (bound {bound})" if bound else f"  {change}")
    return [layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}    ") for line in lines]


def _widths(rows: Sequence[Row], layout: Layout) -> Widths:
    table = [(f"{row.title} of", *_HEADINGS) for row in rows]
    table += [(row.case, *row.cells) for row in rows]
    return tuple(
        max(cells(layout.shown(cell)) for cell in column) for column in zip(*table, strict=False)
    )


def _total(widths: Widths) -> int:
    return len(_INDENT) + sum(widths) + len(_GAP) * (len(widths) - 1)


def _padded(text: str, width: int, column: int) -> str:
    blanks = " " * (width - cells(text))
    return f"{text}{blanks}" if column == 0 else f"{blanks}{text}"
