"""A table, and how it is laid out as text: in columns if they fit, else in lines below each row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from peft_regress.report.layout import PLAIN, Layout, cells

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
    units: tuple[str, ...] = ()
    """What the numbers of each column are in; '' for those that say so themselves, or for none."""
    droppable: tuple[int, ...] = ()
    """Columns to leave out where there is no room, the first of them first; a line names them."""
    not_in_text: tuple[int, ...] = ()
    """Columns for which a terminal has no room."""
    about: tuple[str, ...] = ()
    """What each column is; the page says it on demand."""
    caption: str = ""
    """Names the table to those who hear the page."""
    most_rows: int | None = None
    """Beyond so many rows, Markdown and the page fold the rest."""

    def columns(self) -> list[int]:
        """Return the columns that are not empty."""
        return [
            index
            for index in range(len(self.headings))
            if any(row.cells[index] for row in self.rows)
        ]

    def without(self, columns: Collection[int]) -> Table:
        """Return the table with some columns empty."""
        count = len(self.headings)
        rows = (
            replace(row, cells=tuple("" if at in columns else row.cells[at] for at in range(count)))
            for row in self.rows
        )
        return replace(self, rows=tuple(rows), droppable=(), not_in_text=())


def _column_widths(table: Table, layout: Layout) -> tuple[int, ...]:
    """Return how wide each column of a table is; 0 if it is empty."""
    lines = [table.headings, *([table.units] if table.units else []), *map(_named, table.rows)]
    shown = table.columns()
    return tuple(
        max(cells(layout.shown(line[at])) for line in lines) if at in shown else 0
        for at in range(len(table.headings))
    )


def table_text(table: Table, layout: Layout = PLAIN, *, indent: str = "") -> str:
    """Return a table as text that fits the layout."""
    if table.not_in_text:
        table = replace(table.without(table.not_in_text), droppable=table.droppable)
    if table.droppable:
        return _fitted(table, layout, indent=indent)
    widths = _column_widths(table, layout)
    # If the columns don't fit, each name gets a line of its own.
    for is_apart in (False, True):
        columns = table.columns()[is_apart:]
        inset = indent + PART if is_apart else indent
        for gap in _GAPS:
            used = len(inset) + sum(widths[at] for at in columns) + len(gap) * (len(columns) - 1)
            if used <= layout.width:
                lines = _aligned(table, columns, widths, layout, indent=indent, gap=gap)
                return "\n".join(lines)
    return "\n".join(_stacked(table, layout, indent=indent))


def _fitted(table: Table, layout: Layout, *, indent: str) -> str:
    """Return a table with as many columns as fit, and a line on those that do not."""
    columns = table.columns()
    droppable = [at for at in table.droppable if at in columns]
    widths = _column_widths(table, layout)

    def least(left_out: Sequence[int]) -> int:
        kept = [widths[at] for at in columns if at not in left_out]
        return len(indent) + sum(kept) + len(_GAPS[-1]) * (len(kept) - 1)

    prefixes = (droppable[:count] for count in range(len(droppable) + 1))
    left_out = next((some for some in prefixes if least(some) <= layout.width), None)
    if not left_out:
        # All fit, or not even the fewest do: then each name gets a line of its own.
        return table_text(replace(table, droppable=()), layout, indent=indent)
    shown = table_text(table.without(left_out), layout, indent=indent)
    names = ", ".join(table.headings[at] for at in sorted(left_out))
    note = f"left out for lack of room: {names} (COLUMNS={least([])} shows all)"
    return f"{shown}\n{layout.wrapped(f'{indent}{note}', indent=f'{indent}  ')}"


def _named(row: Row) -> tuple[str, ...]:
    first, *rest = row.cells
    return (f"{PART}{first}" if row.is_part else first, *rest)


def _aligned(  # noqa: PLR0913  (a table, and how to write it)
    table: Table,
    columns: Sequence[int],
    widths: Sequence[int],
    layout: Layout,
    *,
    indent: str,
    gap: str,
) -> Iterator[str]:
    """Yield the rows in columns. Names stand on lines of their own if `columns` leaves them out."""
    names_apart = 0 not in columns

    def lines(shown: Sequence[str]) -> Iterator[str]:
        if names_apart:
            yield layout.wrapped(f"{indent}{shown[0]}", indent=f"{indent}  ")
        padded = []
        for at in columns:
            text = layout.shown(shown[at])
            blanks = " " * (widths[at] - cells(text))
            padded.append(f"{blanks}{text}" if at in table.numbers else f"{text}{blanks}")
        line = (indent + PART * names_apart + gap.join(padded)).rstrip()
        if line:
            yield line

    if any(table.headings):
        yield from lines(table.headings)
    if any(table.units[at] for at in columns if table.units):
        yield from lines(table.units)
    for row in table.rows:
        yield from lines(_named(row))
        yield from _note_lines(row, layout, f"{indent}  ")


def _stacked(table: Table, layout: Layout, *, indent: str) -> Iterator[str]:
    for row in table.rows:
        start = indent + PART if row.is_part else indent
        yield layout.wrapped(f"{start}{row.cells[0]}", indent=f"{start}  ")
        named = [
            f"{table.headings[at]} {row.cells[at]} {table.units[at] if table.units else ''}".strip()
            for at in table.columns()
            if at and row.cells[at]
        ]
        if named:
            yield layout.wrapped(f"{start}  {', '.join(named)}", indent=f"{start}    ")
        yield from _note_lines(row, layout, f"{start}  ")


def _note_lines(row: Row, layout: Layout, indent: str) -> Iterator[str]:
    for note in row.notes:
        yield layout.wrapped(f"{indent}{note}", indent=f"{indent}  ", most_lines=_MOST_NOTE_LINES)
