"""A report as a document: its content is made once, and rendered as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from peft_regress.report.layout import PLAIN, Layout, Style
from peft_regress.report.markdown_syntax import bullets, code_span, escape_markdown, fenced, table
from peft_regress.report.table import Table, table_text

_INDENT = "  "


class Code(str):
    """Words to copy exactly, such as a command."""

    __slots__ = ()


Words = str | tuple[str, ...]
"""The content of a line. In a tuple, parts are joined by blanks, and a part may be `Code`."""


class Line(NamedTuple):
    """A line below a heading."""

    words: Words
    most_lines: int | None = None
    """As text, lines beyond so many are cut off."""


class Listing(NamedTuple):
    """Lines that stand as they are: a program, or what it prints."""

    text: str
    language: str = "text"


class Box(NamedTuple):
    """A line that is ticked or not."""

    words: Words
    is_ticked: bool


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title and what belongs to it. Strings are clean, and in no syntax."""

    title: Words
    body: tuple[Words | Line | Box | Table | Listing, ...] = ()
    level: int = 0
    """Of a heading in Markdown; at 0 the title is a paragraph."""
    style: Style | None = None
    """Of the title in a terminal."""


Document = Sequence[Section | Table]


def plain(words: Words) -> str:
    """Return words as text, with code between backticks."""
    parts = (words,) if isinstance(words, str) else words
    return " ".join(f"`{part}`" if isinstance(part, Code) else part for part in parts if part)


def as_text(document: Document, layout: Layout = PLAIN) -> str:
    """Return a document as text that fits the layout, with a blank line between its parts."""
    return "\n\n".join(
        table_text(part, layout)
        if isinstance(part, Table)
        else "\n".join(_text_lines(part, layout))
        for part in document
    )


def _text_lines(section: Section, layout: Layout) -> Iterator[str]:
    title = layout.wrapped(plain(section.title), indent=_INDENT)
    yield layout.styled(title, section.style)
    for part in section.body:
        if isinstance(part, Table):
            yield table_text(part, layout, indent=2 * _INDENT)
        elif isinstance(part, Listing):
            for line in part.text.splitlines():
                own = line[: len(line) - len(line.lstrip())]
                yield layout.wrapped(f"{2 * _INDENT}{line}", indent=f"{3 * _INDENT}{own}")
        elif isinstance(part, Box):
            mark = "x" if part.is_ticked else " "
            text = f"{_INDENT}[{mark}] {plain(part.words)}"
            yield layout.wrapped(text, indent=3 * _INDENT)
        else:
            words, most_lines = part if isinstance(part, Line) else (part, None)
            text = f"{_INDENT}{plain(words)}"
            yield layout.wrapped(text, indent=2 * _INDENT, most_lines=most_lines)


def as_markdown(document: Document) -> str:
    """Return a document as GitHub-flavoured Markdown, in which no string becomes syntax."""
    blocks: list[str] = []
    for part in document:
        if isinstance(part, Table):
            blocks.append(_markdown_table(part))
        else:
            blocks += _markdown_blocks(part)
    return "\n\n".join(blocks)


def _markdown_blocks(section: Section) -> Iterator[str]:
    yield f"{'#' * section.level} {_markdown_words(section.title)}".strip()
    listed: list[str] = []
    for part in section.body:
        if isinstance(part, Table | Listing):
            if listed:
                yield bullets(listed)
                listed = []
            yield (
                _markdown_table(part)
                if isinstance(part, Table)
                else fenced(part.text, part.language)
            )
        else:
            words = _markdown_words(part.words if isinstance(part, Line | Box) else part)
            mark = f"[{'x' if part.is_ticked else ' '}] " if isinstance(part, Box) else ""
            listed.append(f"{mark}{words.lstrip()}")
    if listed:
        yield bullets(listed)


def _markdown_words(words: Words) -> str:
    parts = (words,) if isinstance(words, str) else words
    return " ".join(
        code_span(part) if isinstance(part, Code) else escape_markdown(part)
        for part in parts
        if part
    )


def _markdown_table(content: Table) -> str:
    columns = content.columns()
    with_notes = any(row.notes for row in content.rows)
    rows = []
    for row in content.rows:
        first, *rest = (escape_markdown(row.cells[at]) for at in columns)
        notes = [escape_markdown("; ".join(row.notes))] if with_notes else []
        rows.append(("&nbsp;&nbsp;" * row.is_part + first, *rest, *notes))
    units = content.units or [""] * len(content.headings)
    named = (f"{content.headings[at]} {units[at]}".strip() for at in columns)
    heading = [*named, *([""] if with_notes else [])]
    return table(
        heading, rows, numbers=[columns.index(at) for at in content.numbers if at in columns]
    )
