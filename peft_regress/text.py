"""Make strings from files or people safe to show."""

from __future__ import annotations

import gettext
import re
from collections.abc import Sequence
from typing import Final

_LONGEST_TEXT = 160


def clean(text: str, *, longest: int = _LONGEST_TEXT) -> str:
    """Return a string as one short line without control characters."""
    # The beginning of a very long text is enough, unless it is mostly blanks.
    flat = _flat(text[: 4 * longest])
    if len(flat) <= longest:
        flat = _flat(text)
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."


def _flat(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def printable(text: str) -> str:
    """Escape control characters, such as a newline in a file name."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_ODD: Final = re.compile(r"[^\n\x20-\x7e]")
_ODD_BUT_STYLES: Final = re.compile(r"\x1b\[(?:1;31|1;33|32|1|0)m|[^\n\x20-\x7e]")
"""The same, but first the codes that `report.layout` writes."""


def visible(text: str, *, styles: bool = False) -> str:
    """Return lines of text with control characters escaped; `styles` may stay."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if len(found[0]) > 1 else printable(found[0])

    return (_ODD_BUT_STYLES if styles else _ODD).sub(shown, text)


def count_of(count: int, singular: str, plural: str | None = None) -> str:
    """Return a count with its noun: '1 case', '1,200 cases'; the plural takes an `s` by default."""
    return f"{count:,} {gettext.ngettext(singular, plural or f'{singular}s', count)}"


def few(names: Sequence[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return ", ".join(map(clean, names[:3])) + more
