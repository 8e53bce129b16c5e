"""Which cases a run measures: what was collected, how it was narrowed, what is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET

from peft_regress.plugin.narrowing import Narrowing
from peft_regress.runs.schema import Selection


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The case ids that a pytest process collected; `|` joins those of several processes."""

    cases: frozenset[str] = frozenset()
    """All of this run's matrix, before anything was deselected."""
    deselected: frozenset[str] = frozenset()
    """Left out on purpose: by `-k`, `-m`, `--deselect`, `--lf` or a shard."""
    selected: frozenset[str] = frozenset()
    """To be measured."""
    other_matrices: Mapping[str, int] = field(default_factory=dict)
    """How many cases belong to other matrices only, by matrix."""

    def __or__(self, other: Collected) -> Collected:
        """Join two processes: every worker of pytest-xdist collects everything."""
        return Collected(
            cases=self.cases | other.cases,
            deselected=self.deselected | other.deselected,
            selected=self.selected | other.selected,
            other_matrices={**self.other_matrices, **other.other_matrices},
        )

    def to_plain(self) -> dict[str, Any]:
        """Return plain lists, which pytest-xdist can send."""
        return {
            "cases": sorted(self.cases),
            "deselected": sorted(self.deselected),
            "selected": sorted(self.selected),
            "other_matrices": dict(self.other_matrices),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Collected:
        """Read what `to_plain` returned."""
        return cls(
            cases=frozenset(plain["cases"]),
            deselected=frozenset(plain["deselected"]),
            selected=frozenset(plain["selected"]),
            other_matrices=plain["other_matrices"],
        )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a run was to measure, and what it measured; all by case id."""

    known: frozenset[str]
    """Every case of the matrix and of its baselines."""
    measured: frozenset[str]
    collected: Collected
    narrowing: Narrowing
    was_interrupted: bool = False
    """Then nobody knows whether all was collected."""

    @property
    def not_selected(self) -> frozenset[str]:
        """The known cases that nothing selected."""
        return (self.known | self.collected.cases) - self.collected.selected - self.measured

    @property
    def selection(self) -> Selection:
        """What the run file says of this."""
        left_out = self.not_selected
        return Selection(
            complete=not self.was_interrupted
            and not left_out
            and self.collected.selected <= self.measured,
            narrowed_by=self.narrowing.typed if left_out else [],
            narrowed_from=self.narrowing.places if left_out and self.narrowing.typed else UNSET,
            not_selected=sorted(left_out),
        )

    @property
    def expected(self) -> frozenset[str]:
        """The cases that need a record: those selected, and those left out by nobody's wish."""
        return self.collected.selected | self._holes()

    def _holes(self) -> frozenset[str]:
        """Return the cases that were left out although the user did not ask for it.

        `-k`, `-m`, `--deselect` and a shard choose among collected cases. Only a path and the like
        explain why a case was not collected. Nothing explains a case that was collected and then
        vanished without being reported as deselected.
        """
        collected = self.collected
        vanished = collected.cases - collected.selected - collected.deselected - self.measured
        if self.narrowing.before_collection:
            return vanished
        lost = self.known - collected.cases - self.measured
        if self.narrowing.after_collection:
            return vanished | lost
        return vanished | lost | self.not_selected
