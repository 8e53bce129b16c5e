"""Trainings that repeat an older one bit for bit, and curves that depart from it. Pure.

On one kind of machine a training repeats to the last bit. So a case whose first seed has the losses
and scores of an older run need not train its other seeds again. Rounding shows in the first losses,
or in the last bits: a curve that departs later, and further, is that of another computation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
from msgspec import UNSET

from peft_regress.cases import Digest
from peft_regress.gate.inputs import telling_difference
from peft_regress.gate.policy import DEFAULT_POLICY, numerics_of
from peft_regress.gate.verdicts import Observation, Reason, Remark
from peft_regress.metrics import METRICS, OF_ALL_SEEDS
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import Curve, Record


class KnownCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A training that need not be repeated in full."""

    curve: Curve | None
    """None for whichever it is: only the first seed is trained in full."""
    definition: str = ""
    machine: Digest | None = None
    run_name: str
    """The run that has it, as reports name it."""

    def fits(self, curve: Curve, definition: str, machine: str) -> bool:
        """Return whether a training of the first seed suffices."""
        known = self.curve, self.definition, self.machine
        return self.curve is None or known == (curve, definition, machine)


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
            run_name=_plain_name(one.run_name),
        )
        for machine, one in old.curves.items()
        if one.record.curve is not UNSET
    ]


def _plain_name(run_name: str) -> str:
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
    one = _trained_here(new, old) if old is not None and new.record.is_repeat else None
    if one is None or one.record.curve != new.record.curve:
        return new
    return replace(new, record=completed(new.record, one.record))


def completed(record: Record, trained: Record) -> Record:
    """Return a repeating record with the scores of the record that it repeats."""
    missing = {name: one for name, one in trained.metrics.items() if lacks_seeds(record, name)}
    return msgspec.structs.replace(
        record, metrics={**record.metrics, **missing}, nearby_losses=trained.nearby_losses
    )


def curve_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
    """Judge the curve of two `ok` records; if it cannot, remark that the bounds alone judge.

    A repeating case that nothing here completes cannot be compared with one that was trained.
    """
    before, after = old.record, new.record
    is_repeat = before.is_repeat, after.is_repeat
    if any(is_repeat) and not (all(is_repeat) and before.curve == after.curve):
        texts = [
            f"one seed trained in full, as in {one.repeats}" if one.is_repeat else "trained in full"
            for one in (before, after)
        ]
        yield Reason(kind="training", old=texts[0], new=texts[1], obstacle="training")
    one = _trained_here(new, old)
    if one is not None and after.curve is not UNSET:
        yield _compared(one, old, new)
    elif not any(is_repeat) and "first_losses" in after.metrics:
        yield _by_bounds("no curve of this kind of machine")


def _by_bounds(why: str) -> Remark:
    return Remark(kind="by bounds", subject="training", text=why)


def _trained_here(new: Observation, old: Observation) -> Observation | None:
    """Return the reference's training of this definition, on this kind of machine."""
    one = old.curves.get(new.machine.digest)
    return None if one is None or one.record.definition != new.record.definition else one


def _compared(one: Observation, old: Observation, new: Observation) -> Reason | Remark:
    known, curve, name = one.record.curve, new.record.curve, _plain_name(one.run_name)
    assert isinstance(known, Curve)  # noqa: S101  (only such observations are `curves`)
    assert isinstance(curve, Curve)  # noqa: S101  (asked before)
    # An own metric may be new.
    pairs = list(itertools.zip_longest(known.losses, curve.losses, fillvalue=math.inf))
    step = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
    scores = [key for key in known.scores if key in curve.scores]
    if step is None and all(known.scores[key] == curve.scores[key] for key in scores):
        return Remark(kind="same curve", subject="training", text=name)
    found = None
    rounding = DEFAULT_POLICY.rounding(numerics_of(one.record))
    if step is None:
        found = _evaluation_reason(known, curve, name, rounding)
    elif step >= DEFAULT_POLICY.curve_steps:
        was, now = pairs[step]
        if abs(now - was) > rounding * max(map(abs, known.losses[: step + 1])):
            found = Reason(
                kind="curve",
                old=f"loss {was!r} of {name} at step {step + 1}",
                new=f"computes something else from step {step + 1} on: loss {now!r}",
                verdict="regressed",
            )
    if found is None:
        return _by_bounds("their losses depart early, or in the last bits")
    if one.run_name != old.run_name and changed_packages(one.environment, old.environment):
        return _by_bounds("the newest entry has other packages than the curve of this machine")
    if telling_difference(one.record, new.record):
        return _by_bounds("they start from other inputs")
    return found


def _evaluation_reason(known: Curve, curve: Curve, name: str, rounding: float) -> Reason | None:
    """Return that equal losses end in another score."""
    for metric, old in known.scores.items():
        new = curve.scores.get(metric, old)
        scale = max(abs(old), abs(known.losses[0])) if metric == "loss" else abs(old)
        if abs(new - old) > rounding * scale:
            return Reason(
                kind="evaluation",
                old=f"{metric} {old!r} of {name}",
                new=f"the evaluation changed: {metric} {new!r} after equal losses",
                verdict="regressed",
            )
    return None
