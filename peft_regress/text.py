"""Make strings from files or people safe to show."""

import contextlib
import gettext
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

_LONGEST_TEXT = 160


def clean(text: str, *, longest: int = _LONGEST_TEXT) -> str:
    """Return a string as one short line without control characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."


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


_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|~?/\S+|(?<![\w.])[\w.]*\d[\w.]*")
"""The names, paths and numbers in a message."""


def pattern_of(message: str) -> str:
    """Return a message without its names, paths and numbers, to tell whether two say the same."""
    return _VARYING.sub("*", message)


_SECRET_NAMES: Final = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_SHORTEST_SECRET: Final = 8
"""Characters: a shorter value may be a word of the text."""
_SECRETS: Final = re.compile(
    r"\b(?:hf|gh[opsur])_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bsk-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=Bearer )[\w.~+/=-]+|(?<=://)[^\s/@]+(?=@)"
    # A variable or an option with its value: `api_key=...`, or in a list `"--token","..."`.
    r"""|((?i:token|key|secret|password)(?:=|","))[^\s"'&,;]{8,}"""
)


def redacted(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Return a text to store: without secrets, and alike in all folders and on all machines.

    Paths below a folder of `sys.path`, as the project's is, or the working folder, become relative
    to it, and homes `~`. variables: environment variables besides those of this process.
    """
    secrets = {
        value
        for name, value in (*os.environ.items(), *(variables or {}).items())
        if name.upper().endswith(_SECRET_NAMES) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _SECRETS.sub(r"\1***", text)
    folders = {*sys.path}
    with contextlib.suppress(FileNotFoundError):  # it was deleted
        folders.add(os.getcwd())  # noqa: PTH109  (text, as in `sys.path`)
    known = "|".join(re.escape(one) for one in sorted(folders, key=len, reverse=True) if one[1:])
    text = re.sub(
        rf"(?<![\w./~-])(?:{known})(?:(/)|(?![\w.-]))", lambda at: "" if at[1] else ".", text
    )
    own = re.escape(os.path.expanduser("~"))  # noqa: PTH111  (it may not be known)
    return re.sub(rf"(?<![\w.~])(?:{own}(?![\w.-])|/(?:home|Users)/[^/\s'\":,)]+)", "~", text)


def model_name(path: str) -> str:
    """Return the name of a model: of the hub whole (`org/name`), of a folder its last part."""
    is_of_hub = re.fullmatch(r"\w[\w.-]*(?:/[\w.-]+)?", path)
    return path if is_of_hub else re.split(r"[/\\]", path.rstrip("/\\"))[-1]
