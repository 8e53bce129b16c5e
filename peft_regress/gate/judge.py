"""Judge a run against a baseline: (references, run, policy) -> verdict with reasons.

Pure: no IO, no torch, no clock. Whatever it is given, worse never passes where better fails.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peft_regress.gate.changes import change_of, have_same_shape, worse_or_better
from peft_regress.gate.drift import drift_of
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.metrics import METRICS
from peft_regress.runs.schema import MIXED_MACHINES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from peft_regress.gate.drift import Origin
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Machine, Record, Run

__all__ = [
    "FAILING",
    "INCOMPLETE",
    "UNACCEPTED",
    "VERDICTS",
    "CaseVerdict",
    "Observation",
    "Reason",
    "RunVerdict",
    "Verdict",
    "are_on_one_machine",
    "judge",
    "judge_case",
    "observations_of",
]

Verdict = Literal[
    "regressed",
    "newly_failing",
    "incomparable",
    "missing",
    "new",
    "fixed",
    "improved",
    "known_defect",
    "unchanged",
]
VERDICTS: tuple[Verdict, ...] = (
    "newly_failing",
    "regressed",
    "incomparable",
    "missing",
    "new",
    "fixed",
    "improved",
    "known_defect",
    "unchanged",
)
"""All verdicts, the gravest first: a case gets the gravest of its reasons."""

FAILING: frozenset[Verdict] = frozenset({"regressed", "newly_failing"})
INCOMPLETE: frozenset[Verdict] = frozenset({"incomparable", "missing", "new"})
UNACCEPTED: frozenset[Verdict] = frozenset({"improved", "fixed"})

_METRIC_POSITIONS = {metric: position for position, metric in enumerate(METRICS)}
_STATUS_RANK = {"ok": 0, "unsupported": 1, "error": 2}

Value = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One difference: what moved, from where to where, by how much, against which bound."""

    metric: str
    old: Value
    new: Value
    relative_change: float | None
    bound: float | None
    verdict: Verdict
    since: str | None = None
    """Of a drift: the entry that `old` is from, older than the one that judges the case."""

    @property
    def title(self) -> str:
        """Return what moved, as reports name it: a metric's name up to the first space."""
        return self.metric if self.since is None else f"{self.metric} (drift since {self.since})"


@dataclass(frozen=True, kw_only=True)
class CaseVerdict:
    """The verdict on one case, the gravest of its reasons."""

    id: str
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A record together with where it was measured, which decides what may be compared."""

    record: Record
    environment: Mapping[str, str]
    machine: Machine
    origin: str
    drift_origins: Mapping[str, Origin] = field(default_factory=dict)
    """Of a reference: per metric, the older entry that its drift counts from (see `drift`)."""


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """The verdict on a run."""

    cases: tuple[CaseVerdict, ...]
    complete: bool

    @property
    def counts(self) -> dict[Verdict, int]:
        """Return how many cases have each verdict, those with none left out."""
        counted = Counter(case.verdict for case in self.cases)
        return {verdict: counted[verdict] for verdict in VERDICTS if counted[verdict]}

    @property
    def exit_code(self) -> int:
        """Return 1 where something regressed, 3 where the comparison has a hole, else 0."""
        verdicts = {case.verdict for case in self.cases}
        if verdicts & FAILING:
            return 1
        if verdicts & INCOMPLETE or not self.complete or not verdicts:
            return 3
        return 0

    def unaccepted(self) -> tuple[CaseVerdict, ...]:
        """Return the cases that got better than their baseline: `--regress-strict` fails them."""
        return tuple(case for case in self.cases if case.verdict in UNACCEPTED)


def observations_of(run: Run, origin: str) -> dict[str, Observation]:
    """Return every case of one run as an observation; `origin` names the run to people."""
    return {
        name: Observation(
            record=record, environment=run.environment, machine=run.machine, origin=origin
        )
        for name, record in run.cases.items()
    }


def judge(
    references: Mapping[str, Observation],
    run: Run,
    *,
    expected: Collection[str],
    policy: Policy = DEFAULT_POLICY,
) -> RunVerdict:
    """Judge every case that was expected or that ran.

    `expected` are the ids that the run was to measure; one without a record is `missing`.
    """
    observed = observations_of(run, "this run")
    cases = tuple(
        judge_case(name, references.get(name), observed.get(name), policy=policy)
        for name in sorted({*expected, *observed})
    )
    return RunVerdict(cases=cases, complete=run.selection.complete)


def judge_case(
    name: str,
    old: Observation | None,
    new: Observation | None,
    *,
    policy: Policy = DEFAULT_POLICY,
) -> CaseVerdict:
    """Judge one case against its reference; either may be absent."""
    if new is None:
        return CaseVerdict(id=name, verdict="missing")
    if old is None:
        return CaseVerdict(id=name, verdict="new")
    reasons = tuple(_reasons(old, new, policy=policy))
    verdicts: set[Verdict] = {"unchanged", *(reason.verdict for reason in reasons)}
    verdict = min(verdicts, key=VERDICTS.index)
    return CaseVerdict(id=name, verdict=verdict, reasons=reasons)


def _reasons(old: Observation, new: Observation, *, policy: Policy) -> Iterator[Reason]:
    before, after = old.record, new.record
    yield from _status_reasons(before, after)
    if before.definition != after.definition:
        pair = (before.definition, after.definition)
        yield _reason("definition", *pair, change=None, bound=None, verdict="incomparable")
        return
    if not before.status == after.status == "ok":
        return
    for metric in sorted(before.metrics.keys() | after.metrics.keys(), key=_position):
        of_newest = tuple(
            _metric_reasons(
                metric,
                before.metrics.get(metric),
                after.metrics.get(metric),
                judge_ops=old.environment.get("torch") == new.environment.get("torch"),
                judge_seconds=are_on_one_machine(old, new),
                method=after.case.method,
                policy=policy,
            )
        )
        # What moved beyond its bound at once is no drift.
        yield from of_newest or _drift_reasons(metric, old.drift_origins, after, policy=policy)
    yield from _invariant_reasons(before.invariants, after.invariants)


def are_on_one_machine(old: Observation, new: Observation) -> bool:
    """Return whether times of both sides can be compared at all."""
    return old.machine.digest == new.machine.digest != MIXED_MACHINES


def _position(metric: str) -> tuple[int, str]:
    """Sort metrics as the table of metrics has them, unknown ones last."""
    return _METRIC_POSITIONS.get(metric, len(_METRIC_POSITIONS)), metric


def _status_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare states: ok < unsupported < error; a step up that ladder newly fails."""
    before, after = _STATUS_RANK[old.status], _STATUS_RANK[new.status]
    verdict: Verdict
    if after > before:
        verdict = "newly_failing"
    elif after < before:
        verdict = "fixed"
    elif new.status == "error":
        verdict = "known_defect"
    else:
        return
    pair = (old.status_text, new.status_text)
    yield _reason("status", *pair, change=None, bound=None, verdict=verdict)


def _metric_reasons(  # noqa: PLR0913  (what a judgement depends on, each by its name)
    name: str,
    old: Metric | None,
    new: Metric | None,
    *,
    judge_ops: bool,
    judge_seconds: bool,
    method: str,
    policy: Policy,
) -> Iterator[Reason]:
    either = old or new
    if either is None:
        return
    if old and new and (old.unit, old.direction, old.kind) != (new.unit, new.direction, new.kind):
        # Before anything is left out by its kind, or a side that claims `info` would hide both.
        text = "{0.unit}, {0.direction}, {0.kind}".format
        yield _reason(name, text(old), text(new), change=None, bound=None, verdict="incomparable")
        return
    informative = either.kind == "info" or (name.startswith("aten_ops") and not judge_ops)
    if informative or (either.kind == "seconds" and not (judge_seconds and old and new)):
        return
    if old is None:
        # Work that was not there, such as an SVD in `step()`, is worse; else there is no telling.
        appeared: Verdict = "regressed" if either.kind == "exact" else "incomparable"
        yield _reason(name, None, either.value, change=None, bound=None, verdict=appeared)
        return
    if new is None:
        yield _reason(name, old.value, None, change=None, bound=None, verdict="regressed")
        return
    if not have_same_shape(old, new):
        sizes = (len(old.samples or ()), len(new.samples or ()))
        what = f"{name}.samples"
        yield _reason(what, *sizes, change=None, bound=None, verdict="incomparable")
        return
    move = change_of(name, old, new, method=method, policy=policy)
    worse, better = worse_or_better(move, old)
    if worse or better:
        verdict: Verdict = "regressed" if worse else "improved"
        pair = (move.old, move.new)
        yield _reason(name, *pair, change=move.change, bound=move.bound, verdict=verdict)


def _drift_reasons(
    name: str, origins: Mapping[str, Origin], new: Record, *, policy: Policy
) -> Iterator[Reason]:
    """Compare with the entry that the metric's drift counts from."""
    origin, metric = origins.get(name), new.metrics.get(name)
    if origin is None or metric is None:
        return
    move = drift_of(name, origin, metric, method=new.case.method, policy=policy)
    worse, better = worse_or_better(move, metric)
    if worse or better:
        verdict: Verdict = "regressed" if worse else "improved"
        yield _reason(
            name,
            move.old,
            move.new,
            change=move.change,
            bound=move.bound,
            verdict=verdict,
            since=origin.entry,
        )


def _invariant_reasons(
    old: Mapping[str, bool | None], new: Mapping[str, bool | None]
) -> Iterator[Reason]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        verdict: Verdict
        if after is False:
            verdict = "known_defect" if before is False else "regressed"
        elif before is not None and after is None:
            # A fact that is no longer checked is not a fact that holds.
            verdict = "regressed"
        elif before is False and after is True:
            verdict = "fixed"
        else:
            continue
        what = f"invariant {name}"
        yield _reason(what, before, after, change=None, bound=None, verdict=verdict)


def _reason(  # noqa: PLR0913  (the fields of a Reason)
    metric: str,
    old: Value,
    new: Value,
    *,
    change: float | None,
    bound: float | None,
    verdict: Verdict,
    since: str | None = None,
) -> Reason:
    if change is not None and not math.isfinite(change):
        # A ratio past the largest float has no JSON; the two values say enough.
        change = None
    return Reason(
        metric=metric,
        old=old,
        new=new,
        relative_change=change,
        bound=bound,
        verdict=verdict,
        since=since,
    )
