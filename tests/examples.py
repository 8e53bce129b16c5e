"""Read the examples of the documents: fenced blocks, their commands, and the output they show."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

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


def renewed(shown, printed):
    """Return what a page shall show now; what it cuts must be renewed by hand."""
    return shown if any(CUT in line for line in shown) else printed
