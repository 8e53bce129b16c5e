"""Judge a run against a baseline: (references, run, policy) -> verdict with reasons.

Pure: no IO, no torch, no clock. Whatever it is given, worse never passes where better fails.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from peft_regress.metrics import METRICS
from peft_regress.policy import DEFAULT_POLICY, Policy
from peft_regress.records import MIXED_MACHINES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from peft_regress.records import Machine, Metric, Record, Run

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
        yield from _metric_reasons(
            metric,
            before.metrics.get(metric),
            after.metrics.get(metric),
            judge_ops=old.environment.get("torch") == new.environment.get("torch"),
            judge_seconds=old.machine.digest == new.machine.digest != MIXED_MACHINES,
            method=after.case.method,
            policy=policy,
        )
    yield from _invariant_reasons(before.invariants, after.invariants)


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
    pair = (_status_text(old), _status_text(new))
    yield _reason("status", *pair, change=None, bound=None, verdict=verdict)


def _status_text(record: Record) -> str:
    if record.error is None:
        return record.status
    return f"{record.status} ({record.error.type}: {record.error.message})"


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
    if not _same_shape(old, new):
        sizes = (len(old.samples or ()), len(new.samples or ()))
        what = f"{name}.samples"
        yield _reason(what, *sizes, change=None, bound=None, verdict="incomparable")
        return
    move = _move(old, new, method=method, policy=policy)
    worse, better = _worse_or_better(move, old)
    if worse or better:
        verdict: Verdict = "regressed" if worse else "improved"
        pair = (move.old, move.new)
        yield _reason(name, *pair, change=move.change, bound=move.bound, verdict=verdict)


class _Move(NamedTuple):
    """From where to where a metric moved, the relative change (None from zero), and its bound."""

    old: float
    new: float
    change: float | None
    bound: float


def _worse_or_better(move: _Move, metric: Metric) -> tuple[bool, bool]:
    """Return (is worse, is better) of a metric that moved."""
    if move.change is None:
        # From zero to something: no ratio says how far, so any move is beyond every bound.
        beyond, signed = True, move.new - move.old
    else:
        beyond, signed = abs(move.change) > move.bound, move.change
        if metric.kind == "seconds":
            # As a ratio, so that three times as fast is as far as three times as slow.
            ratios = (move.new / move.old, move.old / move.new) if move.new else (math.inf,)
            beyond = max(ratios) - 1 > move.bound
    if metric.direction == "same":
        return beyond, False
    if metric.direction == "higher":
        signed = -signed
    return beyond and signed > 0, beyond and signed < 0


def _move(old: Metric, new: Metric, *, method: str, policy: Policy) -> _Move:
    """Return how far a metric moved and how far it may, as its kind has it."""
    if old.kind == "fingerprint":
        return _fingerprint_move(old, new, method=method, policy=policy)
    if old.kind == "accuracy":
        # Paired by seed: both sides started from the same bytes and drew the same batches.
        pairs = list(zip(_flat(old), _flat(new), strict=True))
        difference = sum(b - a for a, b in pairs) / len(pairs)
        if old.unit == "fraction":
            return _Move(old.value, new.value, difference, policy.accuracy_margin)
        change = difference / max(abs(old.value), policy.fingerprint_floor_nats)
        return _Move(old.value, new.value, change, policy.loss_margin)
    if old.kind == "seconds":
        # The fastest seed of each side: noise only ever adds time.
        before, after = min(_flat(old)), min(_flat(new))
        return _Move(before, after, _relative(before, after), policy.seconds_bound)
    bound = policy.bytes_bound if old.kind == "bytes" else 0.0
    return _Move(old.value, new.value, _relative(old.value, new.value), bound)


def _fingerprint_move(old: Metric, new: Metric, *, method: str, policy: Policy) -> _Move:
    """Return the move of the loss, of any seed and step, that comes nearest to its bound.

    Training amplifies rounding, so that each step has a bound of its own.
    """
    moves = [
        _Move(
            a,
            b,
            (b - a) / max(abs(a), policy.fingerprint_floor_nats),
            policy.fingerprint(method, step=step),
        )
        for before, after in zip(_by_seed(old), _by_seed(new), strict=True)
        for step, (a, b) in enumerate(zip(before, after, strict=True))
    ]
    return max(moves, key=lambda move: abs(move.change or 0.0) / move.bound)


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
) -> Reason:
    if change is not None and not math.isfinite(change):
        # A ratio past the largest float has no JSON; the two values say enough.
        change = None
    return Reason(
        metric=metric, old=old, new=new, relative_change=change, bound=bound, verdict=verdict
    )


def _relative(old: float, new: float) -> float | None:
    """Return the change relative to the old value; None where the old value is zero."""
    if old == new:
        return 0.0
    return (new - old) / abs(old) if old else None


def _same_shape(old: Metric, new: Metric) -> bool:
    def shape(metric: Metric) -> list[int]:
        return [len(s) if isinstance(s, list) else -1 for s in metric.samples or ()]

    return shape(old) == shape(new)


def _by_seed(metric: Metric) -> list[list[float]]:
    """Return a list a seed, of one item where a sample is a plain number; the value if none is."""
    listed = [sample if isinstance(sample, list) else [sample] for sample in metric.samples or ()]
    return listed if any(listed) else [[metric.value]]


def _flat(metric: Metric) -> list[float]:
    """Return a metric's samples in one list, or its value where it has none."""
    return [sample for seed in _by_seed(metric) for sample in seed]
