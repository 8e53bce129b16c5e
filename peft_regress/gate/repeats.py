"""Trainings that repeat an older one, and those that depart from it. Pure.

On one kind of machine a training repeats to the last bit; on all of them its referee does, which
trained in float64. A case whose first seed repeats an older run need not train its other seeds.
Where there is no referee, rounding shows in the first losses or in the last bits: a curve that
departs later, and further, is that of another computation.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
from msgspec import UNSET

from peft_regress.cases import Digest
from peft_regress.gate.inputs import TOLERANCE, telling_difference
from peft_regress.gate.policy import DEFAULT_POLICY, numerics_of
from peft_regress.gate.referees import agree, departure, judged_steps, referee_of
from peft_regress.gate.verdicts import Observation, Reason, Remark
from peft_regress.metrics import METRICS, OF_ALL_SEEDS
from peft_regress.runs.schema import Curve, Record, Referee


class KnownCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A training that need not be repeated in full."""

    curve: Curve | None
    """None for whichever it is: only the first seed is trained in full."""
    definition: str = ""
    machine: Digest | None = None
    run_name: str
    """The run that has it, as reports name it."""
    referee: Referee | None = None
    """The same training in float64, on whichever machine."""

    def fits(self, curve: Curve, definition: str, machine: str) -> bool:
        """Return whether a training of the first seed suffices."""
        known = self.curve, self.definition, self.machine
        return self.curve is None or known == (curve, definition, machine)

    def agrees(self, curve: Curve, referee: Referee | None) -> bool:
        """Return whether a training repeats this one in float64, with float32 scores near by."""
        return self.curve is None or (
            agree(self.referee, referee) and _are_near(self.curve.scores, curve.scores)
        )

    def is_repeated_by(self, record: Record) -> bool:
        """Return whether a record that repeats a run may be this one's."""
        curve = record.curve
        if self.curve is None or curve is UNSET:
            return True
        return self.curve == curve or self.agrees(curve, referee_of(record.referee))


def _are_near(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    """Return whether the scores of one seed differ by no more than those of several may."""
    policy = DEFAULT_POLICY
    return old.keys() == new.keys() and all(
        abs(new[name] - was)
        <= (policy.accuracy_margin if name == "accuracy" else policy.loss_margin * abs(was))
        for name, was in old.items()
    )


def known_curves(references: Mapping[str, Observation]) -> dict[str, list[KnownCurve]]:
    """Return what need not be trained again of each reference, by case."""
    return {name: curves_of(one) for name, one in references.items()}


def curves_of(old: Observation) -> list[KnownCurve]:
    """Return the curve of a reference; none if it has none."""
    if old.curve is None:
        return []
    return [
        KnownCurve(
            curve=old.curve,
            definition=old.record.definition,
            machine=old.machine.digest,
            run_name=_plain_name(old.run_name),
            referee=referee_of(old.record.referee),
        )
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
    if old is None or not new.record.is_repeat:
        return new
    is_same = _has_curve_of(old, new) and old.curve == new.curve
    if is_same or are_rounding(old.record, new.record):
        return replace(new, record=completed(new.record, old.record))
    return new


def are_rounding(old: Record, new: Record) -> bool:
    """Return whether two records of one case are the same training in float64."""
    is_same = old.definition == new.definition
    return is_same and agree(referee_of(old.referee), referee_of(new.referee))


def completed(record: Record, trained: Record) -> Record:
    """Return a repeating record with the scores of the record that it repeats."""
    missing = {name: one for name, one in trained.metrics.items() if lacks_seeds(record, name)}
    metrics, nearby = {**record.metrics, **missing}, trained.nearby_losses
    referee = trained.referee if record.referee is UNSET else record.referee
    return msgspec.structs.replace(record, metrics=metrics, nearby_losses=nearby, referee=referee)


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
    theirs, ours = referee_of(before.referee), referee_of(after.referee)
    found: list[Reason | Remark] = []
    known = old.curve if _has_curve_of(old, new) else None
    if known is not None and new.curve is not None and _are_equal(known, new.curve):
        yield Remark(kind="same curve", subject="training", text=_plain_name(old.run_name))
        return
    if theirs is not None and ours is not None:
        found.append(_refereed(old, new, theirs, ours))
    if known is not None and new.curve is not None and after.script is UNSET:
        found.append(_compared(old, new, known, new.curve))
    if not found and not any(is_repeat) and "first_losses" in after.metrics:
        why = f"; no referee, {after.referee}" if isinstance(after.referee, str) else ""
        found.append(_by_bounds(f"no curve of this kind of machine{why}"))
    # A late change of float32 alone is no rounding, whatever the referee says.
    yield from [one for one in found if isinstance(one, Reason)][:1] or found[:1]


def _by_bounds(why: str) -> Remark:
    return Remark(kind="by bounds", subject="training", text=why)


def _has_curve_of(old: Observation, new: Observation) -> bool:
    """Return whether two curves must be equal bit for bit, if nothing else is computed."""
    is_same = old.record.definition == new.record.definition
    return is_same and old.machine.digest == new.machine.digest


def _are_equal(known: Curve, curve: Curve) -> bool:
    """Return whether two curves are equal bit for bit; an own metric may be new."""
    was, now = known.scores, curve.scores
    is_same = all(was[name] == now[name] for name in was if name in now)
    return is_same and known.losses == curve.losses


def _refereed(
    old: Observation, new: Observation, theirs: Referee, ours: Referee
) -> Reason | Remark:
    """Judge by the trainings in float64."""
    found, name = departure(theirs, ours), _plain_name(old.run_name)
    if found is None:
        judged, steps = judged_steps(theirs), len(theirs.losses)
        if agree(theirs, ours):
            return Remark(kind="rounding only", subject="training", text=name)
        return _by_bounds(f"in float64 rounding leaves {judged} of {steps} steps, which are equal")
    is_start = (found.step, found.what) == (1, "loss") and found.relative <= TOLERANCE
    if telling_difference(old.record, new.record) or (new.record.is_own and is_start):
        return _by_bounds("they start from other inputs")
    return _departed(found[:4], name, ", in float64")


def _departed(found: tuple[int, str, float, float], name: str, how: str = "") -> Reason:
    """Return that a training departs from that of a run, by the first fields of a `Departure`."""
    step, what, was, now = found
    if not step:
        old = f"{what} {was!r} of {name}{how}"
        new = f"the evaluation changed: {what} {now!r} after equal losses"
        return Reason(kind="evaluation", old=old, new=new, verdict="regressed")
    old = f"{what} {was!r} of {name} at step {step}{how}"
    new = f"computes something else from step {step} on: {what} {now!r}"
    return Reason(kind="curve", old=old, new=new, verdict="regressed")


def _compared(old: Observation, new: Observation, known: Curve, curve: Curve) -> Reason | Remark:
    """Judge by the curves in float32 of one kind of machine."""
    name = _plain_name(old.run_name)
    pairs = list(itertools.zip_longest(known.losses, curve.losses, fillvalue=math.inf))
    step = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
    found = None
    is_bfloat16, policy = numerics_of(old.record) == "bfloat16", DEFAULT_POLICY
    rounding = policy.bfloat16_curve_rounding if is_bfloat16 else policy.curve_rounding
    if step is None:
        found = _evaluation_reason(known, curve, name, rounding)
    elif step >= policy.curve_steps:
        was, now = pairs[step]
        if abs(now - was) > rounding * max(map(abs, known.losses[: step + 1])):
            found = _departed((step + 1, "loss", was, now), name)
    if found is None:
        return _by_bounds("their losses depart early, or in the last bits")
    if telling_difference(old.record, new.record):
        return _by_bounds("they start from other inputs")
    return found


def _evaluation_reason(known: Curve, curve: Curve, name: str, rounding: float) -> Reason | None:
    """Return that equal losses end in another score."""
    for metric, old in known.scores.items():
        new = curve.scores.get(metric, old)
        scale = max(abs(old), abs(known.losses[0])) if metric == "loss" else abs(old)
        if abs(new - old) > rounding * scale:
            return _departed((0, metric, old, new), name)
    return None
