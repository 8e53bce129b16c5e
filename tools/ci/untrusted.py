"""What the code of others may have written, made safe: texts of a run, and Markdown in them.

It needs only the standard library.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_BODY: Final = 65_536
"""GitHub's limit for the body of an issue, a pull request or a comment, in characters."""

_LARGEST_TEXT: Final = 2**24
_NO_WIDTH: Final = "\u200b"
_FENCE: Final = "```"
_LIVE: Final = re.compile(
    r"@(?=\w)"  # mentions
    r"|#(?=\d)|\bgh(?=\\?-\d)"  # references to issues, which would show this page
    r"|:(?=\\?/\\?/)|\bwww(?=\\?\.)|\](?=\(|:)"  # links and images
    r"|&(?!(?:amp|lt|gt|#8203);)(?=#?\w)"  # the same characters as entities: `&#64;`, `&commat;`
    r"|<(?!\u200b|/?details>|/?summary>)",  # HTML, except folding
    re.IGNORECASE,
)
_OPENS: Final = re.compile("```[A-Za-z]*")
_CLOSES: Final = re.compile(" {0,3}`{3,}[ \t]*")
_OTHER_FENCE: Final = re.compile(r"^(?=[ \t]*(?:```|~~~))")


class UntrustedError(Exception):
    """A file has another form than what may be read; the message says which, and what to do."""


def read_text(path: Path) -> str:
    """Read a file as text, at most 16 MiB of it; nothing if there is none.

    Raises `UntrustedError` if it is not a regular file: a link could lead to a secret of this
    machine.
    """
    if not os.path.lexists(path):
        return ""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UntrustedError(f"{str(path)!r}: is not a regular file; gate the candidate again")
    with path.open("rb") as stream:
        return stream.read(_LARGEST_TEXT).decode(errors="replace")


def defused(text: str) -> str:
    """Return Markdown without mentions, references, links, and HTML other than folding.

    A character of no width breaks them up, so that the text reads as before.
    """
    return _LIVE.sub(f"\\g<0>{_NO_WIDTH}", printable_lines(text))


def printable_lines(text: str) -> str:
    """Return text with the line ends and tabs of Markdown and no other control character."""
    text = re.sub(r"\r\n?", "\n", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def defused_outside_code(text: str) -> str:
    """Return Markdown that is defused, but for blocks of code, which stay fit to be copied.

    Only a fence of three backticks after an empty line opens such a block: it does so for GitHub
    too, wherever it stands. Any other fence is broken up.
    """
    made: list[str] = []
    in_code = False
    before = ""
    for line in printable_lines(text).split("\n"):
        if in_code:
            made.append(line)
            in_code = not _CLOSES.fullmatch(line)
        elif _OPENS.fullmatch(line) and not before.strip():
            made.append(line)
            in_code = True
        else:
            made.append(_OTHER_FENCE.sub(_NO_WIDTH, defused(line)))
        before = line
    return "\n".join(made)


def fit(text: str, *, longest: int = LONGEST_BODY - 1000) -> str:
    """Cut the end off a Markdown text that is too long, and say so.

    The first line stays, unless it is too long itself. A code block that is cut is closed.
    """
    if len(text) <= longest:
        return text
    limit = f"GitHub takes {LONGEST_BODY:,} characters"
    note = f"\n\nCut: {limit}; the run's artifact has all {len(text):,}."
    room = longest - len(note) - len(f"\n{_FENCE}")
    kept = text[:room]
    # Whole lines, unless that leaves less than half, as with a single long line.
    end = kept.rfind("\n")
    if end > room // 2:
        kept = kept[:end]
    fences = [line for line in kept.split("\n") if line.lstrip().startswith(_FENCE)]
    closed = f"{kept}\n{_FENCE}" if len(fences) % 2 else kept
    return closed + note
