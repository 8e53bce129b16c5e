"""The rows of a checklist, and their verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

Verdict = Literal["ok", "out of bounds", "not measured", "shown"]
About = Literal["outputs", "types", "checkpoint", "configuration", "training"]


class Detail(NamedTuple):
    """Why something is out of bounds, not measured, or supported by no side, and where."""

    where: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        configurations: How many configurations it is about; None for all.
        details: The situations that are out of bounds or not measured, and why.

    """

    about: About
    what: str
    configurations: int | None = None
    base: str = ""
    branch: str = ""
    difference: str = ""
    bound: str = ""
    verdict: Verdict
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All rows, and what the base cannot do."""

    rows: tuple[Row, ...]
    unsupported: tuple[Detail, ...] = ()

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a row is out of bounds; else 3 if one was not measured or there is none; else 0."""
        verdict = worst_of({row.verdict for row in self.rows})
        if verdict == "out of bounds":
            return 1
        compared = any(row.about == "outputs" and row.verdict == "ok" for row in self.rows)
        return 0 if compared and verdict == "ok" else 3


def worst_of(verdicts: Collection[str]) -> Verdict:
    """Return the worst of some verdicts; `ok` if there is no bad one."""
    if "out of bounds" in verdicts:
        return "out of bounds"
    return "not measured" if "not measured" in verdicts else "ok"


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return items by a key, in the order of their first ones."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def short(value: float) -> str:
    """Show a number with two digits."""
    return f"{value:.2g}"
