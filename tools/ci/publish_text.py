"""Markdown from the files of a run, made safe to post: others may have written it."""

from __future__ import annotations

import re
from typing import Final

_LIVE: Final = re.compile(
    r"@(?=\w)"  # mentions
    r"|#(?=\d)|\bgh(?=\\?-\d)"  # references to issues, which would show this page
    r"|:(?=\\?/\\?/)|\bwww(?=\\?\.)|\](?=\(|:)"  # links and images
    r"|&(?!(?:amp|lt|gt|#8203);)(?=#?\w)"  # the same characters as entities: `&#64;`, `&commat;`
    r"|<(?!\u200b|/?details>|/?summary>)",  # HTML, except folding
    re.IGNORECASE,
)
NO_WIDTH: Final = "\u200b"


def defused(text: str) -> str:
    """Return Markdown without mentions, references, links, and HTML other than folding.

    A character of no width breaks them up, so that the text reads as before.
    """
    return _LIVE.sub(f"\\g<0>{NO_WIDTH}", printable_lines(text))


def printable_lines(text: str) -> str:
    """Return text with the line ends and tabs of Markdown and no other control character."""
    text = re.sub(r"\r\n?", "\n", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


_OPENS: Final = re.compile("```[A-Za-z]*")
_CLOSES: Final = re.compile(" {0,3}`{3,}[ \t]*")
_OTHER_FENCE: Final = re.compile(r"^(?=[ \t]*(?:```|~~~))")


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
            made.append(_OTHER_FENCE.sub(NO_WIDTH, defused(line)))
        before = line
    return "\n".join(made)
