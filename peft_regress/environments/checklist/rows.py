"""The rows of a checklist, what they say where something is wrong, and how they name it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from peft_regress.environments.checklist.situations import NETWORKS
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.environments.checklist.messages import Situation
    from peft_regress.runs.schema import Failure

Verdict = Literal["ok", "out of bounds", "not measured", "shown"]
About = Literal["outputs", "types", "checkpoint", "configuration", "training", "cost", "time"]

SHOWN_NETWORKS: Final = {network.name: network.shown for network in NETWORKS}


class Detail(NamedTuple):
    """Why something is out of bounds, not measured, or supported by no side, and where."""

    where: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    about: About
    what: str
    configurations: int | None = None
    """How many configurations it is about; None for all."""
    base: str = ""
    branch: str = ""
    difference: str = ""
    bound: str = ""
    verdict: Verdict
    details: tuple[Detail, ...] = ()
    """The situations that are out of bounds or not measured, and why."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All rows, and what no row is about."""

    rows: tuple[Row, ...]
    unsupported: tuple[Detail, ...] = ()
    """What neither side can do."""
    gained: tuple[Detail, ...] = ()
    """What only the branch can do."""
    smallest_effect: float = field(default=math.nan)
    """The smallest difference that an adapter made to a compared output."""

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a row is out of bounds; else 3 if one was not measured or there is none; else 0."""
        verdicts = {row.verdict for row in self.rows}
        if "out of bounds" in verdicts:
            return 1
        compared = any(row.about == "outputs" and row.verdict == "ok" for row in self.rows)
        return 0 if compared and "not measured" not in verdicts else 3


def place_of(situation: Situation) -> str:
    """Name the network and the number type of a situation."""
    return f"{SHOWN_NETWORKS[situation.network]}, {situation.numbers}"


def name_of(situation: Situation) -> str:
    """Name a situation."""
    return f"{SHOWN_NETWORKS[situation.network]}, {situation.numbers}, {situation.label}"


def said_by(failure: Failure) -> str:
    """Show an exception on one line."""
    return clean(f"{failure.type}: {failure.message}")


def percent(share: float) -> str:
    """Show a share with two digits."""
    return f"{100 * share:.2g} %"


def short(value: float) -> str:
    """Show a number with two digits."""
    return f"{value:.2g}"
