"""What keeps text from files and libraries out of the syntax of Markdown."""

from __future__ import annotations

import re

__all__ = ["code_span", "escape_markdown", "fenced"]


def escape_markdown(text: str) -> str:
    """Keep text from a file out of Markdown and HTML syntax."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|~#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped


def fenced(text: str, language: str) -> str:
    """Return a code block of Markdown that nothing in the text can end."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Return code within a line of Markdown that nothing in the text can end."""
    longest = _longest_run(text)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
