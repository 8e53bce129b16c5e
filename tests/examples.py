"""Read the examples of the documents: fenced blocks, their commands, and the output they show."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["PAGES", "ROOT", "Block", "Command", "blocks", "differences", "renewed"]

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "fuzz" / "README.md",
    *sorted((ROOT / "fuzz" / "docs").glob("*.md")),  # its findings/ have tests of their own
)
CUT = "..."
"""Stands for anything in a line; on a line of its own for any lines."""

_ALIKE = 0.4
"""How alike two lines must be for one to be the new form of the other."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command without its comment, and the output shown below it."""

    typed: str
    shown: tuple[str, ...]
    first_line: int = 0
    """Where the shown output starts among the lines of the block."""

    def __str__(self):
        return self.typed


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def commands(self):
        """Return the commands of a console block in order; `a && b` is two, `b` shows the lines."""
        lines = self.text.splitlines()
        starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
        if not starts or starts[0]:
            raise ValueError(f"{self}: a console block starts with a line '$ <command>'")
        found = []
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            typed, first = lines[start].removeprefix("$ "), start + 1
            while typed.endswith("\\"):  # the command goes on in the next line
                typed, first = typed.removesuffix("\\") + lines[first], first + 1
            *others, last = _without_comment(typed).split(" && ")
            found += [Command(typed=other, shown=()) for other in others]
            shown = tuple(lines[first:end])
            found.append(Command(typed=last, shown=shown, first_line=first))
        return found

    def with_outputs(self, outputs):
        """Return the text of the block with new output below some of its commands."""
        lines = self.text.splitlines()
        for command, output in sorted(outputs.items(), key=lambda item: -item[0].first_line):
            lines[command.first_line : command.first_line + len(command.shown)] = output
        return "".join(f"{line}\n" for line in lines)


def blocks():
    """Find every fenced block of every page."""
    for page in PAGES:
        for token in MarkdownIt().parse(page.read_text()):
            if token.type == "fence":
                yield Block(
                    page=page.relative_to(ROOT).as_posix(),
                    line=token.map[0] + 1,
                    language=token.info.strip(),
                    text=token.content,
                )


def _without_comment(typed):
    """Leave out what a shell would: a `#` after blanks, outside quotes."""
    return re.sub(r"""^((?:[^'"#]|'[^']*'|"[^"]*"|(?<=\S)#)*?)\s+#.*$""", r"\1", typed).rstrip()


def _fits(line, printed):
    """Return whether a shown line is the printed one, `...` standing for anything."""
    pattern = ".*".join(map(re.escape, line.rstrip().split(CUT)))
    return re.fullmatch(pattern, printed.rstrip()) is not None


def differences(shown, printed, *, some=False):
    """Describe the first line of a page that was not printed; None if the page is right.

    With `some` the page shows a choice of the lines, in their order.
    """
    position = 0
    skipping = some
    for line in shown:
        if line.strip() == CUT:
            skipping = True
            continue
        limit = len(printed) if skipping else min(position + 1, len(printed))
        for candidate in range(position, limit):
            if _fits(line, printed[candidate]):
                position = candidate + 1
                break
        else:
            near = printed[position] if position < len(printed) else "(the end)"
            return f"shown:   {line}\nprinted: {near}"
        skipping = some
    if position < len(printed) and not skipping:
        return f"shown:   (the end)\nprinted: {printed[position]}"
    return None


def renewed(shown, printed, *, some=False):
    """Return what a page shall show now: the printed lines, cut where it cuts them today.

    Each shown line is paired with the printed line that it is most like. Lines between two pairs
    stay hidden if the page cuts there, or with `some`.
    """
    kept = [(line, line.strip() == CUT) for line in shown]
    pairs = _paired([line for line, is_cut in kept if not is_cut], printed)
    result: list[str] = []
    position, index, cut = 0, 0, None
    for line, is_cut in kept:
        if is_cut:
            cut = line
            continue
        partner, index = pairs[index], index + 1
        if partner is None:  # no longer printed
            continue
        if cut is None and not some:
            result += printed[position:partner]
        elif cut is not None and partner > position:
            result.append(cut)
        result.append(line if _fits(line, printed[partner]) else printed[partner])
        position, cut = partner + 1, None
    if cut is not None:
        result.append(cut)
    elif not some:
        result += printed[position:]
    return result


@cache
def _likeness(one, other):
    if one == other or _fits(one, other):
        return 1.0
    found = difflib.SequenceMatcher(None, one, other).ratio()
    return found if found >= _ALIKE else 0.0


def _paired(shown, printed):
    """Pair lines in their order so that the sum of their likeness is as large as can be."""
    best = [[0.0] * (len(printed) + 1) for _ in range(len(shown) + 1)]
    for row in range(len(shown) - 1, -1, -1):
        for column in range(len(printed) - 1, -1, -1):
            likeness = _likeness(shown[row], printed[column])
            together = likeness + best[row + 1][column + 1] if likeness else 0.0
            best[row][column] = max(together, best[row + 1][column], best[row][column + 1])
    pairs: list[int | None] = []
    column = 0
    for row in range(len(shown)):
        partner = None
        for candidate in range(column, len(printed)):
            likeness = _likeness(shown[row], printed[candidate])
            if likeness and likeness + best[row + 1][candidate + 1] >= best[row][column]:
                partner = candidate
                break
        pairs.append(partner)
        column = column if partner is None else partner + 1
    return pairs
