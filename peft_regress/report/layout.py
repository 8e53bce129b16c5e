"""How text is laid out: its width, its colours, its letters. Pure.

Reports draw in ASCII only; other letters come from files and names.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import wcwidth

Style = Literal["bad", "open", "good", "strong"]

_CODES: Final[dict[Style, str]] = {"bad": "1;31", "open": "1;33", "good": "32", "strong": "1"}
_CUT: Final = "..."
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|points|[kMGT]?FLOP|[KMG]iB|B|s|ms|us|nat)(?![\w/]))")
_GLUE: Final = "\xa0"  # text from files has none: `text.clean` turns it into a blank
_WIDEST_TEXT: Final = 100
"""Columns of running text: longer lines are hard to read."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a reader's terminal, file or log can show."""

    width: int = _WIDEST_TEXT
    """Columns. Tables use all of them, running text at most 100."""
    colour: bool = False
    """Whether to write colour codes."""
    encoding: str = "utf-8"
    """The stream's encoding. Letters that it lacks become escapes, and are measured as such."""

    def shown(self, text: str) -> str:
        r"""Return text in letters that the stream can hold: 'r\\xe9sum\\xe9' in plain ASCII."""
        if text.isascii():
            return text
        try:
            codec = codecs.lookup(self.encoding).name
        except LookupError:
            codec = "ascii"
        return text.encode(codec, "backslashreplace").decode(codec)

    def styled(self, text: str, style: Style | None) -> str:
        """Return text in bold or in a colour, line by line; unchanged without colour or style."""
        if not self.colour or style is None:
            return text
        code = _CODES[style]
        return "\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in text.split("\n"))

    def wrapped(self, text: str, *, indent: str = "  ", most_lines: int | None = None) -> str:
        """Return text in lines that fit. Words stay whole, and numbers stay with their units.

        `indent` starts every line but the first. Beyond `most_lines` the text is cut with `...`.
        """
        lines = self._lines(_UNIT.sub(_GLUE, self.shown(text)), indent)
        if most_lines is not None and len(lines) > most_lines:
            lines = [*lines[: most_lines - 1], self._cut(lines[most_lines - 1])]
        return "\n".join(lines).replace(_GLUE, " ")

    def command(self, words: Sequence[str], *, indent: str = "") -> str:
        r"""Return a command to copy; a line that goes on ends in a backslash, for the shell."""
        first, *rest = map(self.shown, words)
        lines = [indent + first]
        for word in rest:
            if cells(lines[-1]) + cells(word) + len(" ") + len(" \\") > self.width:
                lines[-1] += " \\"
                lines.append(f"{indent}  {word}")
            else:
                lines[-1] += f" {word}"
        return "\n".join(lines)

    @property
    def _text_width(self) -> int:
        return min(self.width, _WIDEST_TEXT)

    def _lines(self, text: str, indent: str) -> list[str]:
        # Each blank belongs to the word after it, so that double blanks and indents stay.
        first, *rest = text.split(" ")
        lines = [first]
        for word in rest:
            has_words = lines[-1].strip()
            if has_words and word and cells(lines[-1]) + 1 + cells(word) > self._text_width:
                lines[-1] = lines[-1].rstrip()
                lines.append(indent + word)
            else:
                lines[-1] += f" {word}"
        return lines

    def _cut(self, line: str) -> str:
        kept = line.split(" ")
        while len(kept) > 1 and cells(" ".join(kept)) + len(f" {_CUT}") > self._text_width:
            kept.pop()
        return f"{' '.join(kept)} {_CUT}"


PLAIN: Final = Layout()
"""The layout of a file, a pipe or a log."""


def cells(text: str) -> int:
    """Return how many columns of a terminal text takes; control characters take none."""
    if text.isascii() and text.isprintable():
        return len(text)
    width = wcwidth.wcswidth(text)
    return width if width >= 0 else sum(max(wcwidth.wcwidth(letter), 0) for letter in text)
