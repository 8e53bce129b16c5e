"""How text and tables are laid out: in a width, with or without colours. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import wcwidth

Style = Literal["bad", "open", "good", "strong"]

STYLE_OF_EXIT: Final[dict[int, Style]] = {0: "good", 1: "bad", 3: "open"}
_CODES: Final[dict[Style, str]] = {"bad": "1;31", "open": "1;33", "good": "32", "strong": "1"}
_CUT: Final = "..."
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|points|[kMGT]?FLOP|[KMG]iB|B|s|ms|us|nat)(?![\w/]))")
_GLUE: Final = "\xa0"  # text from files has none: `text.clean` turns it into a blank
_WIDEST_TEXT: Final = 100
"""Columns of running text: longer lines are hard to read."""
_PART: Final = "  "
"""What sets off the name of a part from the row that it is a part of."""
_GAPS: Final = ("  ", " ")
"""Between columns: two blanks, or one if two don't fit."""
_MOST_NOTE_LINES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a reader's terminal, file or log can show."""

    width: int = _WIDEST_TEXT
    """Columns. Tables use all of them, running text at most 100."""
    colour: bool = False
    """Whether to write colour codes."""

    def styled(self, text: str, style: Style | None) -> str:
        """Return text in bold or in a colour, line by line; unchanged without colour or style."""
        if not self.colour or style is None:
            return text
        code = _CODES[style]
        return "\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in text.split("\n"))

    def wrapped(self, text: str, *, indent: str = "  ", most_lines: int | None = None) -> str:
        """Return text in lines that fit. Words stay whole, and numbers stay with their units.

        `indent` starts every line but the first. Beyond `most_lines` the text is cut with `...`.
        """
        lines = self._lines(_UNIT.sub(_GLUE, text), indent)
        if most_lines is not None and len(lines) > most_lines:
            kept = lines[most_lines - 1].split(" ")
            while len(kept) > 1 and cells(" ".join((*kept, _CUT))) > self._text_width:
                kept.pop()
            lines = [*lines[: most_lines - 1], " ".join((*kept, _CUT))]
        return "\n".join(lines).replace(_GLUE, " ")

    def command(self, words: Sequence[str], *, indent: str = "") -> str:
        r"""Return a command to copy; a line that goes on ends in a backslash, for the shell."""
        first, *rest = words
        lines = [indent + first]
        for word in rest:
            if cells(lines[-1]) + cells(word) + len(" ") + len(" \\") > self.width:
                lines[-1] += " \\"
                lines.append(f"{indent}  {word}")
            else:
                lines[-1] += f" {word}"
        return "\n".join(lines)

    @property
    def _text_width(self) -> int:
        return min(self.width, _WIDEST_TEXT)

    def _lines(self, text: str, indent: str) -> list[str]:
        # Each blank belongs to the word after it, so that double blanks and indents stay.
        first, *rest = text.split(" ")
        lines = [first]
        for word in rest:
            has_words = lines[-1].strip()
            if has_words and word and cells(lines[-1]) + 1 + cells(word) > self._text_width:
                lines[-1] = lines[-1].rstrip()
                lines.append(indent + word)
            else:
                lines[-1] += f" {word}"
        return lines


PLAIN: Final = Layout()
"""The layout of a file, a pipe or a log."""


def cells(text: str) -> int:
    """Return how many columns of a terminal text takes; control characters take none."""
    if text.isascii() and text.isprintable():
        return len(text)
    width = wcwidth.wcswidth(text)
    return width if width >= 0 else sum(max(wcwidth.wcwidth(letter), 0) for letter in text)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table. Strings are clean, and in no syntax."""

    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Shown below the row; in Markdown in a last column."""
    is_part: bool = False
    """Whether the row is a part of a row above it."""

    @classmethod
    def of(cls, *cells: str) -> Self:
        """Return a row without notes."""
        return cls(cells=cells)


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
        every = range(len(self.headings))
        return [at for at in every if any(row.cells[at] for row in self.rows)]


def table_text(table: Table, layout: Layout = PLAIN, *, indent: str = "") -> str:
    """Return a table as text that fits the layout, if it can; else each name has its own line."""
    columns = [at for at in table.columns() if at not in table.not_in_text]
    lines = [table.headings, *([table.units] if table.units else []), *map(_named, table.rows)]
    widths = [max(cells(line[at]) for line in lines) for at in range(len(table.headings))]

    def is_too_wide(shown: Sequence[int], gap: str, inset: str = indent) -> bool:
        used = sum(widths[at] for at in shown) + len(gap) * (len(shown) - 1)
        return len(inset) + used > layout.width

    every, inset = columns, indent
    for at in table.droppable:
        if is_too_wide(columns, _GAPS[-1]):
            columns = [one for one in columns if one != at]
    if is_too_wide(columns, _GAPS[-1]):
        columns = every[1:]
        inset = indent + _PART
    gap = next((gap for gap in _GAPS if not is_too_wide(columns, gap, inset)), _GAPS[-1])
    written = [*_aligned(table, columns, widths, layout, indent=indent, gap=gap)]
    left_out = [table.headings[at] for at in every if at not in columns and at]
    if left_out:
        note = f"{indent}left out for lack of room: {', '.join(left_out)} (COLUMNS=200 shows all)"
        written.append(layout.wrapped(note, indent=f"{indent}  "))
    return "\n".join(written)


def _named(row: Row) -> tuple[str, ...]:
    first, *rest = row.cells
    return (f"{_PART}{first}" if row.is_part else first, *rest)


def _aligned(  # noqa: PLR0913  (a table, and how to write it)
    table: Table, columns: list[int], widths: list[int], layout: Layout, *, indent: str, gap: str
) -> Iterator[str]:
    """Yield the rows in columns. Names stand on lines of their own if `columns` leaves them out."""
    names_apart = 0 not in columns

    def lines(shown: Sequence[str]) -> Iterator[str]:
        if names_apart:
            yield layout.wrapped(f"{indent}{shown[0]}", indent=f"{indent}  ")
        padded = []
        for at in columns:
            blanks = " " * (widths[at] - cells(shown[at]))
            padded.append(f"{blanks}{shown[at]}" if at in table.numbers else f"{shown[at]}{blanks}")
        line = (indent + _PART * names_apart + gap.join(padded)).rstrip()
        if line:
            yield line

    if any(table.headings):
        yield from lines(table.headings)
    if any(table.units[at] for at in columns if table.units):
        yield from lines(table.units)
    for row in table.rows:
        yield from lines(_named(row))
        for note in row.notes:
            text = f"{indent}  {note}"
            yield layout.wrapped(text, indent=f"{indent}    ", most_lines=_MOST_NOTE_LINES)
