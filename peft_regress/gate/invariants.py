"""Judge the invariants: which hold, and whether a false one is false as before. Pure."""

from collections.abc import Iterator
from typing import Final

from msgspec import UNSET

from peft_regress.gate.inputs import telling_difference
from peft_regress.gate.verdicts import Observation, Reason, Remark, Value, Verdict
from peft_regress.invariants import INVARIANTS
from peft_regress.runs.schema import Defect, Record
from peft_regress.text import pattern_of

_MOST_GROWTH: Final = 10


def invariant_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
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
        sides: list[Value] = [was.get(name), now.get(name)]
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


def false_at_first(new: Record) -> Iterator[Reason]:
    """Yield the invariants that are false although nothing judges them yet."""
    for name, holds in sorted(new.invariants.items()):
        if holds is False:
            note = new.note_on(name)
            yield Reason(
                kind="invariant", subject=name, old=None, new=False, verdict="new", note=note
            )
