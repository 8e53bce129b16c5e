"""Read the examples of the documents: fenced blocks, the commands in them, what they print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PAGES", "ROOT", "Block", "Command", "blocks", "differences"]

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),  # docs/findings/ has tests of its own
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as it is typed, its comment left out, and the lines shown below it."""

    typed: str
    shown: tuple[str, ...]

    def __str__(self) -> str:
        return self.typed


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page: its first line in the file, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """Return the commands of a console block in order; `a && b` is two, `b` shows the lines."""
        # A command that ends in a backslash goes on in the next line.
        joined = re.sub(r"^\$ .*(?:\\\n.*)+", _join_lines, self.text, flags=re.MULTILINE)
        lines = joined.splitlines()
        starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
        if not starts or starts[0]:
            msg = f"{self}: a console block starts with a line '$ <command>'"
            raise ValueError(msg)
        found = []
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            *first, last = _without_comment(lines[start].removeprefix("$ ")).split(" && ")
            found += [Command(typed=typed, shown=()) for typed in first]
            found.append(Command(typed=last, shown=tuple(lines[start + 1 : end])))
        return found


def _join_lines(found: re.Match[str]) -> str:
    return found[0].replace("\\\n", "")


def blocks() -> Iterator[Block]:
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


def _without_comment(typed: str) -> str:
    """Leave out what a shell would: a `#` after blanks, outside quotes."""
    return re.sub(r"""^((?:[^'"#]|'[^']*'|"[^"]*"|(?<=\S)#)*?)\s+#.*$""", r"\1", typed).rstrip()


def differences(shown: list[str], printed: list[str], *, some: bool = False) -> str | None:
    """Say where a page shows what was not printed; None where it is right.

    `...` in a line stands for anything in it, a line of it alone for any lines. With `some` the
    page shows lines that it chose, in their order.
    """
    position = 0
    skipping = some
    for line in shown:
        if line.strip() == "...":
            skipping = True
            continue
        pattern = re.compile(".*".join(map(re.escape, line.rstrip().split("..."))))
        limit = len(printed) if skipping else min(position + 1, len(printed))
        for candidate in range(position, limit):
            if pattern.fullmatch(printed[candidate].rstrip()):
                position = candidate + 1
                break
        else:
            near = printed[position] if position < len(printed) else "(the end)"
            return f"shown:   {line}\nprinted: {near}"
        skipping = some
    if position < len(printed) and not skipping:
        return f"shown:   (the end)\nprinted: {printed[position]}"
    return None
