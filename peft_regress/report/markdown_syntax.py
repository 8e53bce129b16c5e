"""Write text from files and libraries as Markdown for GitHub, so that none of it becomes syntax.

GitHub links mentions, references and addresses after it has removed Markdown's escapes. A character
without width prevents that; in code GitHub links nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

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


def cell(text: str) -> str:
    """Return a name as code for a cell of a table.

    A name that could end the cell is escaped instead: parsers disagree about bars within code.
    """
    return escape_markdown(text) if not text or "|" in text or "\\" in text else code_span(text)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int]) -> str:
    """Return a table of cells in Markdown; the columns `numbers` are aligned to the right."""
    right = set(numbers)
    rule = ["---:" if index in right else "---" for index in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rows))


def details(summary: str, *blocks: str) -> str:
    """Fold blocks of Markdown under a summary."""
    return "\n\n".join(
        [f"<details><summary>{html.escape(summary)}</summary>", *blocks, "</details>"]
    )


def bullets(lines: Iterable[str]) -> str:
    """Return a list of lines in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
