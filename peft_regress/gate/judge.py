"""Judge a run by its references: both sides and a policy -> one `Comparison`.

Pure: no IO, no torch, no clock. A worse run never passes if a better one fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.gate.changes import change_of, direction_of, have_same_shape
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.drift import drift_of
from peft_regress.gate.findings import find_causes
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import CaseVerdict, Reason, Verdict, are_on_one_machine, gravest
from peft_regress.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from peft_regress.gate.changes import Change
    from peft_regress.gate.drift import Origin
    from peft_regress.gate.verdicts import Observation
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Record

_METRIC_POSITIONS = {metric: position for position, metric in enumerate(METRICS)}
_STATUS_RANK = {"ok": 0, "unsupported": 1, "error": 2}


def judge(  # noqa: PLR0913  (both sides, and what was asked for)
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    expected: Collection[str] | None = None,
    complete: bool = True,
    invocation: Invocation | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> Comparison:
    """Judge every case that was expected or that ran.

    `expected`: ids of the cases that the run should measure, by default those of the references;
    one without an observation is `missing`. `complete`: whether the run measured all that it was
    asked for.
    """
    wanted = references if expected is None else expected
    cases = tuple(
        judge_case(name, references.get(name), observed.get(name), policy=policy)
        for name in sorted({*wanted, *observed})
    )
    return Comparison(
        cases=cases,
        findings=find_causes(cases, references, observed),
        references=references,
        observed=observed,
        complete=complete,
        invocation=invocation or Invocation(),
    )


def judge_case(
    name: str,
    old: Observation | None,
    new: Observation | None,
    *,
    policy: Policy = DEFAULT_POLICY,
) -> CaseVerdict:
    """Judge one case by its reference; either may be absent."""
    if new is None:
        return CaseVerdict(id=name, verdict="missing")
    if old is None:
        return CaseVerdict(id=name, verdict="new")
    reasons = tuple(_reasons(old, new, policy=policy))
    verdicts: set[Verdict] = {"unchanged", *(reason.verdict for reason in reasons)}
    return CaseVerdict(id=name, verdict=min(verdicts, key=gravest), reasons=reasons)


def _reasons(old: Observation, new: Observation, *, policy: Policy) -> Iterator[Reason]:
    before, after = old.record, new.record
    yield from _status_reasons(before, after)
    if before.definition != after.definition:
        yield Reason(
            metric="definition",
            old=before.definition,
            new=after.definition,
            verdict="incomparable",
        )
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
        # A change beyond its bound in one step is no drift.
        yield from of_newest or _drift_reasons(metric, old.drift_origins, after, policy=policy)
    yield from _invariant_reasons(before.invariants, after.invariants)


def _position(metric: str) -> tuple[int, str]:
    """Return the key that sorts metrics as in the table of metrics, unknown ones last."""
    return _METRIC_POSITIONS.get(metric, len(_METRIC_POSITIONS)), metric


def _status_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare states: ok < unsupported < error; a step up newly fails."""
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
    yield Reason(metric="status", old=old.status_text, new=new.status_text, verdict=verdict)


def _metric_reasons(  # noqa: PLR0913  (all that decides it)
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
        # Checked before the kind excludes a metric: a side that says `info` must not hide it.
        text = "{0.unit}, {0.direction}, {0.kind}".format
        yield Reason(metric=name, old=text(old), new=text(new), verdict="incomparable")
        return
    informative = either.kind == "info" or (name.startswith("aten_ops") and not judge_ops)
    if informative or (either.kind == "seconds" and not (judge_seconds and old and new)):
        return
    if old is None:
        # New work, such as an SVD in `step()`, is worse; other metrics need a reference.
        appeared: Verdict = "regressed" if either.kind == "exact" else "incomparable"
        yield Reason(metric=name, old=None, new=either.value, verdict=appeared)
        return
    if new is None:
        yield Reason(metric=name, old=old.value, new=None, verdict="regressed")
        return
    if not have_same_shape(old, new):
        yield Reason(
            metric=f"{name}.samples",
            old=len(old.samples or ()),
            new=len(new.samples or ()),
            verdict="incomparable",
        )
        return
    change = change_of(name, old, new, method=method, policy=policy)
    yield from _change_reasons(name, change, old)


def _drift_reasons(
    name: str, origins: Mapping[str, Origin], new: Record, *, policy: Policy
) -> Iterator[Reason]:
    """Compare with the entry that the metric's drift counts from."""
    origin, metric = origins.get(name), new.metrics.get(name)
    if origin is None or metric is None:
        return
    drift = drift_of(name, origin, metric, method=new.case.method, policy=policy)
    yield from _change_reasons(name, drift, metric, since=origin.entry)


def _change_reasons(
    name: str, change: Change, metric: Metric, *, since: str | None = None
) -> Iterator[Reason]:
    """Yield the reason if a metric changed beyond its bound."""
    direction = direction_of(change, metric)
    if direction is not None:
        verdict: Verdict = "regressed" if direction == "worse" else "improved"
        yield Reason.of(name, change, verdict, since=since)


def _invariant_reasons(
    old: Mapping[str, bool | None], new: Mapping[str, bool | None]
) -> Iterator[Reason]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        verdict: Verdict
        if after is False:
            verdict = "known_defect" if before is False else "regressed"
        elif before is not None and after is None:
            # An invariant that is no longer checked may not hold.
            verdict = "regressed"
        elif before is False and after is True:
            verdict = "fixed"
        else:
            continue
        yield Reason(metric=f"invariant {name}", old=before, new=after, verdict=verdict)
