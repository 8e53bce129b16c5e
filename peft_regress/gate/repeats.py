"""Trainings that repeat an older one bit for bit, and curves that depart from it. Pure.

On one kind of machine a training repeats to the last bit. So a case whose first seed has the losses
and scores of an older run need not train its other seeds again. Rounding shows in the first losses,
or in the last bits: a curve that departs later, and further, is that of another computation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
from msgspec import UNSET

from peft_regress.cases import Digest
from peft_regress.gate.inputs import first_difference
from peft_regress.gate.policy import DEFAULT_POLICY, Policy, numerics_of
from peft_regress.gate.verdicts import Observation, Reason, Remark
from peft_regress.metrics import METRICS, OF_ALL_SEEDS
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import Curve, Record


class KnownCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A training that need not be repeated in full."""

    curve: Curve
    definition: str
    machine: Digest
    run_name: str
    """The run that has it, as reports name it."""


def known_curves(references: Mapping[str, Observation]) -> dict[str, list[KnownCurve]]:
    """Return the curves of each reference, one for each kind of machine, by case."""
    return {name: curves_of(one) for name, one in references.items()}


def curves_of(old: Observation) -> list[KnownCurve]:
    """Return the curves of a reference, one for each kind of machine."""
    return [
        KnownCurve(
            curve=one.record.curve,
            definition=one.record.definition,
            machine=machine,
            run_name=plain_name(one.run_name),
        )
        for machine, one in old.curves.items()
        if one.record.curve is not UNSET
    ]


def plain_name(run_name: str) -> str:
    """Return the name of a run without the folders of this machine."""
    return run_name.rstrip("/").rpartition("/")[2] or run_name


def lacks_seeds(record: Record, name: str) -> bool:
    """Return whether a record has no metric of this name since its seeds did not all train."""
    if not record.is_repeat:
        return False  # first, since a long history asks often
    return name not in record.metrics and (name in OF_ALL_SEEDS or name not in METRICS)


def whole(new: Observation, old: Observation | None) -> Observation:
    """Return a repeating case with the scores of the training that it repeats, if `old` knows it.

    They judge the case; reports show the record as it was measured.
    """
    if old is None or not new.record.is_repeat:
        return new
    one = _trained_here(new, old)
    if one is None or one.record.curve != new.record.curve:
        return new
    return replace(new, record=completed(new.record, one.record))


def completed(record: Record, trained: Record) -> Record:
    """Return a repeating record with the scores of the record that it repeats."""
    missing = {
        name: metric for name, metric in trained.metrics.items() if lacks_seeds(record, name)
    }
    return msgspec.structs.replace(
        record,
        metrics={**record.metrics, **missing},
        nearby_losses=trained.nearby_losses,
    )


def training_findings(
    old: Observation, new: Observation, *, policy: Policy = DEFAULT_POLICY
) -> Iterator[Reason | Remark]:
    """Judge the curve; if it cannot, remark that the bounds alone judge the training.

    A repeating case that nothing here completes cannot be compared with one that was trained.
    """
    before, after = old.record, new.record
    if not before.status == after.status == "ok":
        return
    is_repeat = before.is_repeat, after.is_repeat
    if any(is_repeat) and not (all(is_repeat) and before.curve == after.curve):
        yield Reason(
            metric="training",
            old=_in_words(before),
            new=_in_words(after),
            verdict="incomparable",
        )
    one = _trained_here(new, old)
    if one is not None and after.curve is not UNSET:
        judges = _is_judged_by(one, old, new)
        yield from _against(one, after.curve, judges=judges, policy=policy)
    elif not any(is_repeat) and "first_losses" in after.metrics:
        why = "no curve of this kind of machine"
        yield Remark(kind="by bounds", subject="training", text=why)


def _against(
    one: Observation, curve: Curve, *, judges: bool, policy: Policy
) -> Iterator[Reason | Remark]:
    assert one.record.curve is not UNSET  # noqa: S101  (asked before)
    known, name = one.record.curve, plain_name(one.run_name)
    rounding = policy.rounding(numerics_of(one.record))
    step = next((k for k, (a, b) in enumerate(_pairs(known, curve)) if a != b), None)
    if step is None and _common(known, curve) == _common(curve, known):
        yield Remark(kind="same curve", subject="training", text=name)
        return
    found = None
    if step is None:
        found = _evaluation_reason(known, curve, name, rounding)
    elif step >= policy.curve_steps:
        found = _curve_reason(known, curve, name, rounding, step)
    if found is not None and judges:
        yield found
        return
    why = "their losses depart early, or in the last bits"
    if found is not None:
        why = "since their curve another kind of machine accepted other packages, or inputs changed"
    yield Remark(kind="by bounds", subject="training", text=why)


def _pairs(known: Curve, curve: Curve) -> Iterator[tuple[float | None, float | None]]:
    return itertools.zip_longest(known.losses, curve.losses)


def _common(curve: Curve, other: Curve) -> dict[str, float]:
    """Return the scores that both curves have: an own metric may be new."""
    return {name: value for name, value in curve.scores.items() if name in other.scores}


def _curve_reason(
    known: Curve, curve: Curve, name: str, rounding: float, step: int
) -> Reason | None:
    """Return that the losses depart further than rounding sends them."""
    # Of one definition both have as many losses.
    old, new = known.losses[step], curve.losses[step]
    if abs(new - old) <= rounding * max(map(abs, known.losses[: step + 1])):
        return None
    return Reason(
        metric="curve",
        old=f"loss {old!r} of {name} at step {step + 1}",
        new=f"computes something else from step {step + 1} on: loss {new!r}",
        verdict="regressed",
    )


def _evaluation_reason(known: Curve, curve: Curve, name: str, rounding: float) -> Reason | None:
    """Return that equal losses end in another score."""
    for metric, old in _common(known, curve).items():
        new = curve.scores[metric]
        scale = max(abs(old), abs(known.losses[0])) if metric == "loss" else abs(old)
        if abs(new - old) > rounding * scale:
            return Reason(
                metric="evaluation",
                old=f"{metric} {old!r} of {name}",
                new=f"the evaluation changed: {metric} {new!r} after equal losses",
                verdict="regressed",
            )
    return None


def _trained_here(new: Observation, old: Observation) -> Observation | None:
    """Return the reference's training of this definition, on this kind of machine."""
    one = old.curves.get(new.machine.digest)
    return None if one is None or one.record.definition != new.record.definition else one


def _is_judged_by(one: Observation, old: Observation, new: Observation) -> bool:
    """Return whether a reference's curve may judge a case.

    It does not if another package was accepted since on another kind of machine, nor if a case of
    one's own starts from other weights or data.
    """
    is_current = one.run_name == old.run_name or not changed_packages(
        one.environment, old.environment
    )
    return is_current and first_difference(one.record, new.record) is None


def _in_words(record: Record) -> str:
    if record.is_repeat:
        return f"one seed trained in full, as in {record.repeats}"
    return "trained in full"
