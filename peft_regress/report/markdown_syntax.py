"""What keeps text from files and libraries out of the syntax of Markdown, as GitHub reads it.

GitHub looks for mentions, references and addresses in the text that it shows, where escapes of
Markdown are gone. What keeps it from them is a character without width; within code it looks for
none.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["bullets", "cell", "code_span", "details", "escape_markdown", "fenced", "table"]

_NO_WIDTH: Final = "&#8203;"
_LINKED: Final = re.compile(r"@|:(?=//)|#(?=\d)|\bwww(?=\.)|\bgh(?=-\d)", re.IGNORECASE)
"""Where GitHub makes a link of text: mentions, addresses, issues."""


def escape_markdown(text: str) -> str:
    """Keep text from a file out of Markdown and HTML syntax, and out of links and mentions."""
    apart = _LINKED.sub("\\g<0>\0", text.replace("\0", ""))
    escaped = html.escape(apart, quote=False)
    for character in "\\`*_[]|~#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("\0", _NO_WIDTH)


def fenced(text: str, language: str) -> str:
    """Return a code block of Markdown that nothing in the text can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Return code within a line of Markdown that nothing in the text can end."""
    longest = _longest_run(text)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def cell(text: str) -> str:
    """Return a name as code in a cell of a table.

    What would end the cell is escaped instead: within code, readers of Markdown differ on that.
    """
    return escape_markdown(text) if not text or "|" in text or "\\" in text else code_span(text)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int]) -> str:
    """Return a table of cells that are Markdown already; columns of `numbers` stand right."""
    right = set(numbers)
    rule = ["---:" if index in right else "---" for index in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rows))


def details(summary: str, *blocks: str) -> str:
    """Fold blocks of Markdown under a line that is shown."""
    return "\n\n".join(
        [f"<details><summary>{html.escape(summary)}</summary>", *blocks, "</details>"]
    )


def bullets(lines: Iterable[str]) -> str:
    """Return a list of lines that are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
