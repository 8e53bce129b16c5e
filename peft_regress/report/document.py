"""A report as a document: its content is made once; this module writes it as text.

`markdown` and `html` write the same document in their syntax.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, NamedTuple, Self, cast

from peft_regress.report.layout import PLAIN, Layout, Style, Table, table_text
from peft_regress.text import clean

_INDENT: Final = "  "
_LONGEST_SET: Final = 2000
_LONGEST_WORD: Final = 50


class Code(str):
    """Words to copy exactly, such as a command."""

    __slots__ = ()


class CaseId(str):
    """A case as it is shown; the page links to it by its id."""

    __slots__ = ("id",)
    id: str

    def __new__(cls, shown: str, name: str | None = None) -> Self:
        """Make one; `name` is the id if `shown` is shortened."""
        made = super().__new__(cls, shown)
        made.id = shown if name is None else name
        return made


class Badge(str):
    """A state in a word; the page colours it."""

    __slots__ = ("kind",)
    kind: Style | Literal["plain"]

    def __new__(cls, shown: str, kind: Style | Literal["plain"]) -> Self:
        """Make one."""
        made = super().__new__(cls, shown)
        made.kind = kind
        return made


class Number(str):
    """A number as it is shown; the page sorts by its value, and shows it exactly on demand."""

    __slots__ = ("exact", "value")
    value: float | None
    exact: str

    def __new__(cls, shown: str, value: float | None, unit: str = "") -> Self:
        """Make one; `unit` stands behind the exact value."""
        made = super().__new__(cls, shown)
        made.value = value
        made.exact = "" if value is None else f"{value:,} {unit}".strip()
        return made


Words = str | tuple[str, ...]
"""The content of a line. In a tuple, parts are joined by blanks, and a part may be `Code`."""


class Line(NamedTuple):
    """A line below a heading."""

    words: Words
    most_lines: int | None = None
    """As text, lines beyond so many are cut off; those of the cases, if there are any."""
    cases: tuple[str, ...] = ()
    """What the line is about: named below it, as briefly as possible."""
    style: Style | None = None
    is_ticked: bool | None = None
    """Of a line with a box: whether it is ticked."""

    @property
    def box(self) -> str:
        """The box and a blank; empty without a box."""
        return {None: "", True: "[x] ", False: "[ ] "}[self.is_ticked]


class Listing(NamedTuple):
    """Lines that stand as they are: a program, or what it prints."""

    text: str
    language: str = "text"


class Cases(NamedTuple):
    """Cases, each by its name; as text as briefly as possible."""

    ids: tuple[str, ...]


class Command(NamedTuple):
    """What to type."""

    purpose: str
    words: Sequence[str]
    """Quoted for a shell, each option with its value."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title and what belongs to it. Strings are clean, and in no syntax."""

    title: Words
    """Empty if the body stands alone."""
    body: "tuple[Block, ...]" = ()
    level: int = 0
    """Of a heading in Markdown; at 0 the title is a paragraph."""
    style: Style | None = None
    """Of the title in a terminal."""
    folded: bool = False
    """Whether Markdown and the page show the title alone, until it is opened."""
    in_text: bool = True
    """Whether a terminal shows it."""


Block = Words | Line | Table | Listing | Cases | Command | Section
Document = Sequence[Section | Table]


def kind_of(part: Block) -> type:
    """Return what a block is; all sorts of lines are `Line`."""
    return part.__class__ if isinstance(part, Command | Listing | Cases | Section | Table) else Line


def line_of(part: Block) -> Line:
    """Return a block of the kind `Line` as one."""
    return part if isinstance(part, Line) else Line(cast("Words", part))


def joined(words: Words, form: Callable[[str], str]) -> str:
    """Return words with each part in a form."""
    parts = (words,) if isinstance(words, str) else words
    return " ".join(map(form, filter(None, parts)))


def plain(words: Words) -> str:
    """Return words as text, with code between backticks."""
    return joined(words, lambda part: f"`{part}`" if isinstance(part, Code) else part)


def case_set(ids: Sequence[str]) -> str:
    """Write ids as briefly as possible: `{shift,unseen}/dora-r4/{resnet18,mobilenet_v2}`.

    Ids that are no such product are listed.
    """
    parts = {tuple(name.split("/")) for name in ids}
    columns = [sorted(set(column)) for column in zip(*parts, strict=False)]
    if set(product(*columns)) != parts:
        return " ".join(clean(name) for name in sorted(ids))
    named = [[clean(name) for name in column] for column in columns]
    shown = (column[0] if len(column) == 1 else f"{{{','.join(column)}}}" for column in named)
    brief = clean("/".join(shown), longest=_LONGEST_SET)
    # A set that fits on no line needs blanks to break it at.
    return brief if len(brief) <= _LONGEST_WORD else brief.replace(",", ", ")


def as_text(document: Document, layout: Layout = PLAIN) -> str:
    """Return a document as text that fits the layout, with a blank line between its parts."""
    return "\n\n".join(
        table_text(part, layout)
        if isinstance(part, Table)
        else "\n".join(_section_lines(part, layout, ""))
        for part in document
        if isinstance(part, Table) or part.in_text
    )


def _section_lines(section: Section, layout: Layout, indent: str) -> Iterator[str]:
    below = indent + _INDENT if section.title else indent
    if section.title:
        title = layout.wrapped(f"{indent}{plain(section.title)}", indent=below)
        yield layout.styled(title, section.style)
    for part in section.body:
        yield from _block_lines(part, layout, below)


def _block_lines(part: Block, layout: Layout, indent: str) -> Iterator[str]:
    below = indent + _INDENT
    if isinstance(part, Section):
        if part.in_text:
            yield from _section_lines(part, layout, indent)
    elif isinstance(part, Table):
        yield table_text(part, layout, indent=below)
    elif isinstance(part, Listing):
        for line in part.text.splitlines():
            own = line[: len(line) - len(line.lstrip())]
            yield layout.wrapped(f"{below}{line}", indent=f"{below}{_INDENT}{own}")
    elif isinstance(part, Cases):
        yield layout.wrapped(f"{indent}{case_set(part.ids)}", indent=below)
    elif isinstance(part, Command):
        yield layout.wrapped(f"{indent}{part.purpose}:", indent=below)
        yield layout.command(part.words, indent=below)
    else:
        shown = line_of(part)
        most = None if shown.cases else shown.most_lines
        further = below + _INDENT if shown.box else below
        text = f"{indent}{shown.box}{plain(shown.words)}"
        yield layout.styled(layout.wrapped(text, indent=further, most_lines=most), shown.style)
        if shown.cases:
            named = f"{below}{case_set(shown.cases)}"
            yield layout.wrapped(named, indent=below, most_lines=shown.most_lines)
