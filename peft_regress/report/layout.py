"""How text is laid out: how wide, in colour or not, in which letters. Pure.

What is drawn is ASCII; letters beyond it come from files and names alone.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PLAIN", "Layout", "Style", "cells"]

Style = Literal["bad", "open", "good", "strong"]

_CODES: Final[dict[Style, str]] = {"bad": "1;31", "open": "1;33", "good": "32", "strong": "1"}
_CUT: Final = "..."
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|points|[kMGT]?FLOP|[KMG]iB|B|s|ms|us|nat)(?![\w/]))")
_GLUE: Final = "\xa0"  # no text from a file has one: `text.clean` makes blanks of them


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a reader's terminal, file or log can show.

    width: columns. colour: whether codes for it may be written. encoding: of the stream; what it
    cannot hold is written as an escape, and measured as one.
    """

    width: int = 100
    colour: bool = False
    encoding: str = "utf-8"

    def shown(self, text: str) -> str:
        r"""Return text in letters that the stream can hold: 'r\\xe9sum\\xe9' in plain ASCII."""
        if text.isascii():
            return text
        try:
            codec = codecs.lookup(self.encoding).name
        except LookupError:
            codec = "ascii"
        return text.encode(codec, "backslashreplace").decode(codec)

    def styled(self, text: str, style: Style) -> str:
        """Return text in bold or a colour, each line by itself; as it is where there is none."""
        if not self.colour:
            return text
        code = _CODES[style]
        return "\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in text.split("\n"))

    def wrapped(self, text: str, *, indent: str = "  ", most_lines: int | None = None) -> str:
        """Return text in lines that fit, no word broken and no number parted from its unit.

        `indent` leads every line but the first; what is beyond `most_lines` is cut with `...`.
        """
        lines = self._lines(_UNIT.sub(_GLUE, self.shown(text)), indent)
        if most_lines is not None and len(lines) > most_lines:
            lines = [*lines[: most_lines - 1], self._cut(lines[most_lines - 1])]
        return "\n".join(lines).replace(_GLUE, " ")

    def command(self, words: Sequence[str], *, indent: str = "") -> str:
        """Return a command to be copied: where it goes on in the next line, the shell knows."""
        first, *rest = map(self.shown, words)
        lines = [indent + first]
        for word in rest:
            if cells(lines[-1]) + cells(word) + len(" ") + len(" \\") > self.width:
                lines[-1] += " \\"
                lines.append(f"{indent}  {word}")
            else:
                lines[-1] += f" {word}"
        return "\n".join(lines)

    def _lines(self, text: str, indent: str) -> list[str]:
        # Words keep the blanks before them: two of them stay two, and the first may be indented.
        first, *rest = text.split(" ")
        lines = [first]
        for word in rest:
            has_words = lines[-1].strip()
            if has_words and word and cells(lines[-1]) + 1 + cells(word) > self.width:
                lines[-1] = lines[-1].rstrip()
                lines.append(indent + word)
            else:
                lines[-1] += f" {word}"
        return lines

    def _cut(self, line: str) -> str:
        kept = line.split(" ")
        while len(kept) > 1 and cells(" ".join(kept)) + len(f" {_CUT}") > self.width:
            kept.pop()
        return f"{' '.join(kept)} {_CUT}"


PLAIN: Final = Layout()
"""For a file, a pipe or a log."""


def cells(text: str) -> int:
    """Return how many columns of a terminal text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
