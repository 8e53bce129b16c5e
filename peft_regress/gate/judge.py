"""Judge a run by its references: both sides -> one `Comparison`.

Pure: no IO, no torch, no clock. A worse run never passes if a better one fails.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from msgspec import UNSET

from peft_regress.gate import budget_use as budgets
from peft_regress.gate.budget_use import Others
from peft_regress.gate.changes import OPERATORS, metric_findings, with_share
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.findings import find_causes
from peft_regress.gate.inputs import definition_reasons, telling_difference
from peft_regress.gate.repeats import curve_findings, whole
from peft_regress.gate.trained import script_remarks, training_findings
from peft_regress.gate.verdicts import CaseVerdict, Observation, Reason, Remark, Verdict, gravest
from peft_regress.invariants import INVARIANTS
from peft_regress.project.devices import DeviceClass
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import Defect, Failure, Record
from peft_regress.text import pattern_of

_MOST_GROWTH: Final = 10
_STATUS_RANK: Final = {"ok": 0, "unsupported": 1, "error": 2}


def judge(  # noqa: PLR0913  (both sides, and what was asked for)
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    expected: Collection[str] | None = None,
    complete: bool = True,
    invocation: Invocation | None = None,
    devices: Sequence[DeviceClass] = (),
    beside: Mapping[str, Record] | None = None,
    same_files: bool = False,
) -> Comparison:
    """Judge every case that was expected or that ran, and that the glob of `invocation` matches.

    `expected`: ids of the cases that the run should measure, by default those of the references;
    one without an observation is `missing`. `complete`: whether the run measured all that it was
    asked for. `devices`: the device classes of which a case must not lose one that it fitted into.
    `beside`: records that are not judged now, of the same run or of the storage, whose costs a
    budget may refer to. `same_files`: whether both sides ran the same files, so that other inputs
    (data, weights, draws) are the work of the packages, and regressed.
    """
    invocation = invocation or Invocation()
    observed = {
        name: budgets.with_budget_of(new, references.get(name)) for name, new in observed.items()
    }
    wanted = {*(references if expected is None else expected), *observed}
    chosen = sorted(name for name in wanted if fnmatchcase(name, invocation.cases))
    cases = tuple(
        judge_case(
            name,
            references.get(name),
            observed.get(name),
            devices=devices,
            others=Others.of(observed.get(name), references, observed, beside or {}),
            same_files=same_files,
        )
        for name in chosen
    )
    return Comparison(
        cases=cases,
        findings=find_causes(cases, references, observed),
        references=references,
        observed={name: observed[name] for name in chosen if name in observed},
        complete=complete,
        not_judged=len(observed.keys() - set(chosen)),
        invocation=invocation,
    )


def judge_case(  # noqa: PLR0913  (both sides, and what they are judged by)
    name: str,
    old: Observation | None,
    new: Observation | None,
    *,
    devices: Sequence[DeviceClass] = (),
    others: Others = Others(),  # noqa: B008  (immutable)
    same_files: bool = False,
) -> CaseVerdict:
    """Judge one case by its reference; either may be absent.

    others: the case whose cost the shares of the budget refer to. same_files: see `judge`.
    """
    if new is None:
        return CaseVerdict(id=name, verdict="missing")
    new = budgets.with_budget_of(whole(new, old), old)
    before = None if old is None else old.record
    uses = budgets.budget_of(new.record, devices, others.new)
    found = list(budgets.budget_findings(uses, before, new.record, devices, others))
    found += script_remarks(new.record)
    if old is None:
        found += _false_at_first(new.record)
    else:
        judged = list(_findings(old, new, devices, same_files=same_files))
        found += _with_operators_remarked(old, new, judged)
    reasons = sorted(
        (with_share(one, before) for one in found if isinstance(one, Reason)),
        key=lambda one: one.order,
    )
    least: Verdict = "new" if old is None else "unchanged"
    return CaseVerdict(
        id=name,
        verdict=min({least, *(reason.verdict for reason in reasons)}, key=gravest),
        reasons=tuple(reasons),
        remarks=tuple(one for one in found if isinstance(one, Remark)),
        budgets=uses,
    )


def _findings(
    old: Observation, new: Observation, devices: Sequence[DeviceClass], *, same_files: bool
) -> Iterator[Reason | Remark]:
    before, after = old.record, new.record
    status = _status_reason(before, after)
    if status is not None:
        yield status
    if before.definition != after.definition:
        yield from definition_reasons(before, after)
    elif before.status == after.status == "ok":
        yield from curve_findings(old, new)
        yield from training_findings(before, after, same_files=same_files)
        yield from metric_findings(old, new)
        yield from budgets.lost_fits(before, after, devices)
        yield from _invariant_findings(old, new)


def _status_reason(old: Record, new: Record) -> Reason | None:
    """Return how the state changed: ok < unsupported < error, or another error; else None."""
    before, after = _STATUS_RANK[old.status], _STATUS_RANK[new.status]
    texts = old.status_text, new.status_text
    verdict: Verdict
    if after != before:
        verdict = "newly_failing" if after > before else "fixed"
    elif new.status != "error":
        return None
    elif _is_same_error(old.error, new.error):
        verdict = "known_defect"
    else:
        verdict, texts = "newly_failing", (old.long_status_text, new.long_status_text)
    return Reason(kind="status", old=texts[0], new=texts[1], verdict=verdict)


def _is_same_error(old: Failure | None, new: Failure | None) -> bool:
    """Return whether two cases fail with the same error, after as many steps."""
    patterns = {one and one.pattern for one in (old, new)}
    steps = {one.after_steps for one in (old, new) if one and one.after_steps is not UNSET}
    return len(patterns) == 1 and len(steps) < 2  # noqa: PLR2004


def _with_operators_remarked(
    old: Observation, new: Observation, found: Sequence[Reason | Remark]
) -> Sequence[Reason | Remark]:
    """Turn other counts of operators into remarks if the user's own code alone can be the cause.

    No package changed, nor anything else that is judged exactly: the losses, FLOPs and bytes.
    """
    told = {one for one in found if isinstance(one, Reason)}
    reasons = {one for one in told if one.verdict not in {"known_defect", "fixed"}}
    if not all(one.subject.startswith(OPERATORS) and one.old and one.new for one in reasons):
        return found
    environments = old.environment, new.environment
    if changed_packages(*environments) or old.has_direct or new.has_direct:
        return found
    has_curve = any(isinstance(one, Remark) and one.kind == "same curve" for one in found)
    exact = {"exact", "bytes"} if has_curve else {"exact", "bytes", "fingerprint"}
    before, after = old.record.metrics, new.record.metrics
    for name, metric in before.items():
        if metric.kind in exact and not name.startswith(OPERATORS) and after.get(name) != metric:
            return found
    return [
        Remark(kind="operators", subject=one.subject, old=one.old, new=one.new, spec=one.spec)
        if isinstance(one, Reason) and one in reasons
        else one
        for one in found
    ]


def _invariant_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
    """Compare the invariants."""
    was, now = old.record.invariants, new.record.invariants
    for name in sorted(was.keys() | now.keys()):
        note = new.record.note_on(name)
        if name not in was and name not in old.known and name in INVARIANTS:
            text = note if now[name] is False else ""
            about = f"invariant {name}"
            yield Remark(kind="new metric", subject=about, new=now[name], text=text)
            continue
        verdict = _invariant_verdict(name, old.record, new.record)
        if verdict is None:
            continue
        # An older version never checked it.
        is_unknown = (
            verdict == "regressed" and name not in {*now, *new.known} and name in INVARIANTS
        )
        sides: list[Any] = [was.get(name), now.get(name)]
        if sides == [False, False] and verdict == "regressed":
            sides = [f"false: {one.record.note_on(name)}" for one in (old, new)]
            note = ""
        yield Reason(
            kind="invariant",
            subject=name,
            old=sides[0],
            new=sides[1],
            verdict="incomparable" if is_unknown else verdict,
            obstacle="not measured" if is_unknown else None,
            note=note,
        )


def _invariant_verdict(name: str, old: Record, new: Record) -> Verdict | None:
    """Judge an invariant; None stands for a side on which it does not apply, or is not checked."""
    was, now = old.invariants.get(name), new.invariants.get(name)
    if now is False:
        return "known_defect" if was is False and _is_known(name, old, new) else "regressed"
    if now is True:
        return "fixed" if was is False else None
    # An invariant that is no longer checked may not hold.
    needs_inputs = name in INVARIANTS and INVARIANTS[name].needs_inputs
    is_lost = was is not None and not (needs_inputs and telling_difference(old, new))
    return "regressed" if is_lost else None


def _is_known(name: str, old: Record, new: Record) -> bool:
    """Return whether an invariant that is false on both sides is no worse, and by the same cause.

    By the same error; or in no other tensors, and off by at most ten times as much. Where a defect
    is told in words alone, by the same words.
    """
    if old.defects is UNSET or new.defects is UNSET:
        return True
    was, now = old.defects.get(name, Defect()), new.defects.get(name, Defect())
    if Defect() in (was, now):
        words = {pattern_of(record.note_on(name)) for record in (old, new)}
        return was == now and len(words) == 1
    if was.size is None or now.size is None:
        is_no_larger = was.size is now.size
    else:
        is_no_larger = now.size <= _MOST_GROWTH * was.size
    errors = {one.error and one.error.pattern for one in (was, now)}
    return is_no_larger and len(errors) == 1 and set(now.tensors) <= set(was.tensors)


def _false_at_first(new: Record) -> Iterator[Reason]:
    """Yield the invariants that are false although nothing judges them yet."""
    for name, holds in sorted(new.invariants.items()):
        if holds is False:
            note = new.note_on(name)
            yield Reason(
                kind="invariant", subject=name, old=None, new=False, verdict="new", note=note
            )
