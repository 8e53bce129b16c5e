"""Write a document as Markdown for GitHub, so that no text from a file or a library is syntax.

GitHub links mentions, references and addresses after it has removed Markdown's escapes. A character
without width prevents that; in code GitHub links nothing.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from peft_regress.report import document as doc
from peft_regress.report.layout import Row, Table
from peft_regress.text import clean, count_of

_NO_WIDTH: Final = "&#8203;"
_LINKED: Final = re.compile(r"@|:(?=//)|#(?=\d)|\bwww(?=\.)|\bgh(?=-\d)", re.IGNORECASE)
"""Where GitHub would start a link: mentions, addresses, issues."""


def escape_markdown(text: str) -> str:
    """Return text as Markdown that shows it, without any syntax, link or mention."""
    apart = _LINKED.sub("\\g<0>\0", text.replace("\0", ""))
    escaped = html.escape(apart, quote=False)
    for character in "\\`*_[]|~#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("\0", _NO_WIDTH)


def fenced(text: str, language: str) -> str:
    """Return a code block that nothing in the text can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Return code for a line of Markdown; nothing in the text can end it."""
    longest = _longest_run(text)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def inline(text: str) -> str:
    """Return a part of a line: code, or escaped."""
    return code_span(text) if isinstance(text, doc.Code) else escape_markdown(text)


def cell(text: str) -> str:
    """Return a cell of a table, with a name as code.

    A name that could end the cell is escaped instead: parsers disagree about bars within code.
    """
    is_code = isinstance(text, doc.CaseId | doc.Code) and not {"|", "\\"} & {*text}
    return code_span(text) if is_code and text else escape_markdown(text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


MOST_CASES: Final = 6
"""How many cases are shown before the rest is folded."""
_LONGEST_SET: Final = 400


def as_markdown(document: doc.Document) -> str:
    """Return a document as GitHub-flavoured Markdown, in which no string becomes syntax."""
    return "\n\n".join(block for part in document for block in _blocks([part]))


def _blocks(parts: Iterable[doc.Block]) -> Iterator[str]:
    """Yield blocks; neighbouring lines are one list, and neighbouring commands one listing."""
    for kind, group in groupby(parts, key=doc.kind_of):
        if kind is doc.Command:
            steps = (f"# {one.purpose}\n{' '.join(one.words)}" for one in group)  # type: ignore[union-attr]
            yield fenced("\n".join(steps), "sh")
        elif kind is doc.Line:
            yield "\n".join(map(_line, group))
        else:
            for part in group:
                yield from _block(part)


def _block(part: doc.Block) -> Iterator[str]:
    if isinstance(part, doc.Section):
        yield from _section(part)
    elif isinstance(part, doc.Listing):
        yield fenced(part.text, part.language)
    elif isinstance(part, Table):
        shown, rest = folded_rows(part.rows, part.most_rows)
        yield _table(part, shown)
        if rest:
            yield from _folded(more_rows(rest), [_table(part, rest)])
    elif isinstance(part, doc.Cases):
        shown, rest = folded_rows(part.ids, MOST_CASES)
        yield fenced("\n".join(shown), "text")
        if rest:
            yield from _folded(count_of(len(rest), "more case"), [fenced("\n".join(rest), "text")])


def _section(section: doc.Section) -> Iterator[str]:
    if section.folded:
        # In this element GitHub shows HTML, but no code.
        title = section.title if isinstance(section.title, str) else " ".join(section.title)
        yield from _folded(title, _blocks(section.body))
        return
    if section.title:
        yield f"{'#' * section.level} {doc.joined(section.title, inline)}".strip()
    yield from _blocks(section.body)


def _folded(summary: str, blocks: Iterable[str]) -> Iterator[str]:
    apart = _LINKED.sub(rf"\g<0>{_NO_WIDTH}", html.escape(summary))
    yield f"<details><summary>{apart}</summary>"
    yield from blocks
    yield "</details>"


def _line(part: doc.Block) -> str:
    line = doc.line_of(part)
    cases = clean(doc.case_set(line.cases), longest=_LONGEST_SET) if line.cases else ""
    words = doc.joined(line.words, inline).lstrip()
    return f"- {line.box}{words}" + (f": {code_span(cases)}" if cases else "")


def folded_rows(rows: Sequence[Any], most: int | None) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the first rows, and those to fold; one more row is as short as what folds it."""
    if most is None or len(rows) <= most + 1:
        return rows, ()
    return rows[:most], rows[most:]


def more_rows(rows: Sequence[Row]) -> str:
    """Return how many rows are folded."""
    is_of_cases = isinstance(rows[0].cells[0], doc.CaseId)
    return count_of(len(rows), "more case" if is_of_cases else "more row")


def _table(content: Table, rows: Sequence[Row]) -> str:
    columns = content.columns()
    with_notes = any(row.notes for row in content.rows)
    lines = []
    for row in rows:
        first, *others = (cell(row.cells[at]) for at in columns)
        notes = [escape_markdown("; ".join(row.notes))] if with_notes else []
        lines.append(("&nbsp;&nbsp;" * row.is_part + first, *others, *notes))
    units = content.units or [""] * len(content.headings)
    headings = [escape_markdown(f"{content.headings[at]} {units[at]}".strip()) for at in columns]
    rule = ["---:" if at in content.numbers else "---" for at in columns]
    if with_notes:
        headings.append("")
        rule.append("---")
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))
