"""A table, and how it is laid out as text: in columns if they fit, else in lines below each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress.report.layout import PLAIN, cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.report.layout import Layout

__all__ = ["PART", "Row", "Table", "column_widths", "table_text"]

PART: Final = "  "
"""What sets off the name of a part from the row that it is a part of."""
_GAPS: Final = ("  ", " ")
"""Between columns: two blanks, or one if two don't fit."""
_MOST_NOTE_LINES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table. Strings are clean, and in no syntax."""

    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Shown below the row; in Markdown in a last column."""
    is_part: bool = False
    """Whether the row is a part of a row above it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings. A column that is empty in every row is not shown."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: tuple[int, ...] = ()
    """Columns of numbers, which are aligned to the right."""

    def columns(self) -> list[int]:
        """Return the columns that are not empty."""
        return [
            index
            for index in range(len(self.headings))
            if any(row.cells[index] for row in self.rows)
        ]


def column_widths(table: Table, layout: Layout = PLAIN) -> tuple[int, ...]:
    """Return how wide each column of a table is that is not empty."""
    lines = [table.headings, *map(_named, table.rows)]
    return tuple(max(cells(layout.shown(line[at])) for line in lines) for at in table.columns())


def table_text(
    table: Table, layout: Layout = PLAIN, *, indent: str = "", least: Sequence[int] = ()
) -> str:
    """Return a table as text that fits the layout.

    `least` are the least widths of the columns: with them, several tables have the same columns.
    """
    widths = column_widths(table, layout)
    if least:
        widths = tuple(map(max, widths, least))
    # If the columns don't fit, each name gets a line of its own.
    for inset, columns in (("", widths), (PART, widths[1:])):
        for gap in _GAPS:
            room = layout.width - len(indent) - len(inset) - len(gap) * (len(columns) - 1)
            if sum(columns) <= room:
                return "\n".join(_aligned(table, columns, layout, indent=indent, gap=gap))
    return "\n".join(_stacked(table, layout, indent=indent))


def _named(row: Row) -> tuple[str, ...]:
    first, *rest = row.cells
    return (f"{PART}{first}" if row.is_part else first, *rest)


def _aligned(
    table: Table, widths: Sequence[int], layout: Layout, *, indent: str, gap: str
) -> Iterator[str]:
    """Yield the rows in columns; the name stands above the row if `widths` leaves it out."""
    columns = table.columns()
    own_line = len(widths) < len(columns)

    def lines(shown: Sequence[str]) -> Iterator[str]:
        if own_line:
            yield layout.wrapped(f"{indent}{shown[0]}", indent=f"{indent}  ")
        padded = [indent + PART] if own_line else [indent]
        for at, width in zip(columns[own_line:], widths, strict=True):
            text = layout.shown(shown[at])
            blanks = " " * (width - cells(text))
            padded.append(f"{blanks}{text}" if at in table.numbers else f"{text}{blanks}")
        line = padded[0] + gap.join(padded[1:]).rstrip()
        if line.strip():
            yield line

    if any(table.headings):
        yield from lines(table.headings)
    for row in table.rows:
        yield from lines(_named(row))
        yield from _note_lines(row, layout, f"{indent}  ")


def _stacked(table: Table, layout: Layout, *, indent: str) -> Iterator[str]:
    for row in table.rows:
        start = indent + PART if row.is_part else indent
        yield layout.wrapped(f"{start}{row.cells[0]}", indent=f"{start}  ")
        named = [
            f"{table.headings[at]} {row.cells[at]}".strip()
            for at in table.columns()
            if at and row.cells[at]
        ]
        if named:
            yield layout.wrapped(f"{start}  {', '.join(named)}", indent=f"{start}    ")
        yield from _note_lines(row, layout, f"{start}  ")


def _note_lines(row: Row, layout: Layout, indent: str) -> Iterator[str]:
    for note in row.notes:
        yield layout.wrapped(f"{indent}{note}", indent=f"{indent}  ", most_lines=_MOST_NOTE_LINES)
