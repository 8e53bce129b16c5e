"""Judge a run by its references: both sides and a policy -> one `Comparison`.

Pure: no IO, no torch, no clock. A worse run never passes if a better one fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from msgspec import UNSET

from peft_regress.devices import DeviceClass
from peft_regress.gate.bounds import numerics_of
from peft_regress.gate.budgets import Others, budget_of, budget_remarks, over_budget_reasons
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.defects import error_text, is_known, is_same_error
from peft_regress.gate.definitions import cost_reasons, definition_reasons
from peft_regress.gate.findings import find_causes
from peft_regress.gate.fits import lost_fits
from peft_regress.gate.fronts import lost_fronts
from peft_regress.gate.inputs import (
    OF_INPUTS,
    ShapeChanges,
    first_difference,
    model_changes,
    rate_difference,
    shape_changes,
)
from peft_regress.gate.metric_reasons import MetricJudge
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.repeats import training_findings, whole
from peft_regress.gate.verdicts import CaseVerdict, Observation, Reason, Remark, Verdict, gravest
from peft_regress.metrics import INVARIANTS
from peft_regress.runs.schema import Record
from peft_regress.text import count_of

_STATUS_RANK = {"ok": 0, "unsupported": 1, "error": 2}
_NEEDS_THE_INPUTS = "stored_adapter_loads"
"""The invariant that does not apply to other weights or test data than the stored adapter's."""


def judge(  # noqa: PLR0913  (both sides, and what was asked for)
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    expected: Collection[str] | None = None,
    complete: bool = True,
    invocation: Invocation | None = None,
    policy: Policy = DEFAULT_POLICY,
    devices: Sequence[DeviceClass] = (),
    beside: Mapping[str, Record] | None = None,
) -> Comparison:
    """Judge every case that was expected or that ran.

    `expected`: ids of the cases that the run should measure, by default those of the references;
    one without an observation is `missing`. `complete`: whether the run measured all that it was
    asked for. `devices`: the device classes of which a case must not lose one that it fitted into.
    `beside`: records of the same run that are not judged now, whose costs a budget may refer to.
    """
    wanted = references if expected is None else expected
    wholes = {name: whole(new, references.get(name)) for name, new in observed.items()}
    others = {
        name: Others.of(new.record, references, observed, beside or {})
        for name, new in observed.items()
    }
    cases = tuple(
        judge_case(
            name,
            references.get(name),
            wholes.get(name),
            policy=policy,
            devices=devices,
            others=others.get(name, Others()),
        )
        for name in sorted({*wanted, *observed})
    )
    return Comparison(
        cases=cases,
        findings=find_causes(cases, references, observed),
        references=references,
        observed=observed,
        fronts=lost_fronts(references, wholes, policy=policy),
        complete=complete,
        invocation=invocation or Invocation(),
    )


def judge_case(  # noqa: PLR0913  (both sides, and what they are judged by)
    name: str,
    old: Observation | None,
    new: Observation | None,
    *,
    policy: Policy = DEFAULT_POLICY,
    devices: Sequence[DeviceClass] = (),
    others: Others = Others(),  # noqa: B008  (immutable)
) -> CaseVerdict:
    """Judge one case by its reference; either may be absent.

    others: the case whose cost the shares of the budget refer to.
    """
    if new is None:
        return CaseVerdict(id=name, verdict="missing")
    new = whole(new, old)
    reference = None if old is None else old.record
    found: list[Reason | Remark] = [
        *over_budget_reasons(reference, new.record, devices, others),
        *budget_remarks(reference, new.record, devices, others),
    ]
    if old is None:
        found += _false_at_first(new.record)
    else:
        found += _findings(old, new, policy=policy, devices=devices)
    # The gravest first: what fails must not stand behind what got better.
    reasons = tuple(
        sorted(
            (one for one in found if isinstance(one, Reason)),
            key=lambda reason: gravest(reason.verdict),
        )
    )
    least: Verdict = "new" if old is None else "unchanged"
    return CaseVerdict(
        id=name,
        verdict=min({least, *(reason.verdict for reason in reasons)}, key=gravest),
        reasons=reasons,
        remarks=tuple(one for one in found if isinstance(one, Remark)),
        budgets=budget_of(new.record, devices, others.new),
    )


def _findings(
    old: Observation, new: Observation, *, policy: Policy, devices: Sequence[DeviceClass]
) -> Iterator[Reason | Remark]:
    before, after = old.record, new.record
    status = status_reason(before, after)
    if status is not None:
        yield status
    if before.definition != after.definition:
        yield from definition_reasons(before, after)
        yield from cost_reasons(before, after)
        return
    yield from training_findings(old, new, policy=policy)
    if not before.status == after.status == "ok":
        return
    model = model_changes(before, after)
    if model is not None:
        yield _model_remark(model)
    difference = first_difference(before, after)
    if difference is not None and _both_depend_on_inputs(before, after):
        yield Reason(
            metric="inputs",
            old=f"{difference.where}: {difference.old}",
            new=difference.new,
            verdict="incomparable",
        )
    if difference is None:
        yield from _rate_reasons(before, after)
    yield from _trained_reasons(before, after)
    yield from _numerics_reasons(before, after)
    judge = MetricJudge.of(old, new, policy=policy, same_inputs=difference is None)
    yield from judge.findings()
    yield from lost_fits(before, after, devices)
    yield from _invariant_findings(old, new)


def _false_at_first(new: Record) -> Iterator[Reason]:
    """Yield the invariants that are false although nothing judges them yet."""
    for name in sorted(name for name, holds in new.invariants.items() if holds is False):
        yield Reason(
            metric=f"invariant {name}",
            old=None,
            new=False,
            verdict="new",
            note=new.note_on(name),
        )


def _both_depend_on_inputs(old: Record, new: Record) -> bool:
    return any(
        metric.kind in OF_INPUTS and name in old.metrics for name, metric in new.metrics.items()
    )


def status_reason(old: Record, new: Record) -> Reason | None:
    """Return how the state changed, None if there is nothing to say.

    ok < unsupported < error; a step up newly fails, and so does another error.
    """
    before, after = _STATUS_RANK[old.status], _STATUS_RANK[new.status]
    verdict: Verdict | None = None
    texts = old.status_text, new.status_text
    if after > before:
        verdict = "newly_failing"
    elif after < before:
        verdict = "fixed"
    elif new.status == "error":
        is_same = is_same_error(old.error, new.error)
        verdict = "known_defect" if is_same else "newly_failing"
        texts = texts if is_same else (error_text(old), error_text(new))
    if verdict is None:
        return None
    return Reason(metric="status", old=texts[0], new=texts[1], verdict=verdict)


def _model_remark(changes: ShapeChanges) -> Remark:
    words = changes.words("no longer has", "newly has", "changed shape")
    return Remark(kind="model", subject="model", text=words)


def _trained_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare which parameters train, by name and shape."""
    if old.trained is UNSET:
        return
    before = count_of(len(old.trained), "tensor")
    if new.trained is UNSET:
        yield Reason(metric="trained", old=before, new=None, verdict="regressed")
        return
    changes = shape_changes(old.trained, new.trained)
    if changes is not None:
        words = changes.words("no longer", "newly", "changed shape")
        after = f"{count_of(len(new.trained), 'tensor')}: {words}"
        yield Reason(metric="trained", old=before, new=after, verdict="regressed")


def _rate_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare the learning rates, which a schedule decides."""
    found = rate_difference(old, new)
    if found is not None:
        words = f"{found.where}: {found.new}"
        yield Reason(metric="rates", old=found.old, new=words, verdict="regressed")


def _numerics_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare the precision, which decides the bounds: another one must not choose its own."""
    before, after = numerics_of(old), numerics_of(new)
    if before != after:
        words = f"the precision changed from {before} to {after}"
        yield Reason(metric="numerics", old=before, new=words, verdict="regressed")


def _invariant_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
    was, now = old.record.invariants, new.record.invariants
    for name in sorted(was.keys() | now.keys()):
        if name not in was and name not in old.known and name in INVARIANTS:
            text = new.record.note_on(name) if now[name] is False else ""
            yield Remark(kind="new metric", subject=f"invariant {name}", new=now[name], text=text)
            continue
        reason = invariant_reason(name, old.record, new.record)
        if reason is None:
            continue
        unknown = name not in now and name in INVARIANTS and name not in new.known
        if reason.verdict == "regressed" and unknown:
            reason = replace(reason, verdict="incomparable")  # an older version never checked it
        yield reason


def invariant_reason(name: str, old: Record, new: Record) -> Reason | None:
    """Return what is to be said of an invariant; None for nothing."""
    was, now = old.invariants.get(name), new.invariants.get(name)
    verdict = _invariant_verdict(name, old, new)
    if verdict is None:
        return None
    metric = f"invariant {name}"
    if was is now is False and verdict == "regressed":
        before, after = (f"false: {record.note_on(name)}" for record in (old, new))
        return Reason(metric=metric, old=before, new=after, verdict=verdict)
    return Reason(metric=metric, old=was, new=now, verdict=verdict, note=new.note_on(name))


def _invariant_verdict(name: str, old: Record, new: Record) -> Verdict | None:
    """Judge an invariant; None stands for a side on which it does not apply, or is not checked."""
    was, now = old.invariants.get(name), new.invariants.get(name)
    if now is False:
        return "known_defect" if was is False and is_known(name, old, new) else "regressed"
    if now is True:
        return "fixed" if was is False else None
    # An invariant that is no longer checked may not hold.
    is_lost = was is not None and (name != _NEEDS_THE_INPUTS or first_difference(old, new) is None)
    return "regressed" if is_lost else None
