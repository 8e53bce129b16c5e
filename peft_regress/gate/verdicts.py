"""The words of the gate: verdicts, the reasons for them, and what is judged. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from peft_regress.runs.schema import MIXED_MACHINES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.gate.changes import Change
    from peft_regress.gate.drift import Origin
    from peft_regress.runs.schema import Machine, Record, Run

Verdict = Literal[
    "newly_failing",
    "regressed",
    "incomparable",
    "missing",
    "new",
    "fixed",
    "improved",
    "known_defect",
    "unchanged",
]
"""The gravest first: a case gets the gravest verdict of its reasons."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

FAILING: frozenset[Verdict] = frozenset({"regressed", "newly_failing"})
INCOMPLETE: frozenset[Verdict] = frozenset({"incomparable", "missing", "new"})
UNACCEPTED: frozenset[Verdict] = frozenset({"improved", "fixed"})

Value = float | int | str | bool | None

gravest = VERDICTS.index
"""The key that sorts verdicts, the gravest first."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One difference between both sides of a case."""

    metric: str
    """A metric, `status`, `definition`, or `invariant NAME`."""
    old: Value
    new: Value
    relative_change: float | None = None
    bound: float | None = None
    verdict: Verdict
    since: str | None = None
    """Of a drift: the entry that `old` is from, older than the one that judges the case."""

    @classmethod
    def of(
        cls, metric: str, change: Change, verdict: Verdict, *, since: str | None = None
    ) -> Reason:
        """Return the reason that a metric changed beyond its bound."""
        # A ratio beyond the largest float has no JSON; the two values say enough.
        is_finite = change.relative is not None and math.isfinite(change.relative)
        return cls(
            metric=metric,
            old=change.old,
            new=change.new,
            relative_change=change.relative if is_finite else None,
            bound=change.bound,
            verdict=verdict,
            since=since,
        )

    @property
    def title(self) -> str:
        """The metric as reports name it."""
        return self.metric if self.since is None else f"{self.metric} (drift since {self.since})"


@dataclass(frozen=True, kw_only=True)
class CaseVerdict:
    """The verdict on one case, the gravest of its reasons."""

    id: str
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A record with the environment and the machine that it was measured in."""

    record: Record
    environment: Mapping[str, str]
    machine: Machine
    run_name: str
    """The run that holds the record, as reports name it."""
    drift_origins: Mapping[str, Origin] = field(default_factory=dict)
    """Of a reference: for each metric, the older entry that its drift counts from."""


def observations_of(run: Run, run_name: str) -> dict[str, Observation]:
    """Return each case of one run as an observation, by case id."""
    return {
        name: Observation(
            record=record, environment=run.environment, machine=run.machine, run_name=run_name
        )
        for name, record in run.cases.items()
    }


def are_on_one_machine(old: Observation, new: Observation) -> bool:
    """Return whether the times of both sides can be compared."""
    return old.machine.digest == new.machine.digest != MIXED_MACHINES
