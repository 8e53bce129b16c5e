"""Reasons that are about no metric: status, definition, trained parameters, invariants. Pure.

What an old record could not say is no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from msgspec import UNSET

from peft_regress.gate.inputs import (
    OF_INPUTS,
    first_difference,
    model_changes,
    optimizer_differences,
    rate_difference,
    shape_changes,
)
from peft_regress.gate.policy import numerics_of
from peft_regress.gate.verdicts import Observation, Reason, Remark, Verdict
from peft_regress.metrics import INVARIANTS
from peft_regress.runs.schema import Defect, Failure, Record
from peft_regress.text import count_of

_STATUS_RANK: Final = {"ok": 0, "unsupported": 1, "error": 2}
_NEEDS_THE_INPUTS: Final = "stored_adapter_loads"
"""The invariant that does not apply to other weights or test data than the stored adapter's."""
_COSTS: Final = (
    "trainable_params",
    "adapter_bytes",
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "peak_bytes",
)
"""What a reader asks of another definition; nothing is judged."""


def definition_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield each setting that differs; without any, both digests."""
    changed = changed_settings(old, new) or {"": (old.definition, new.definition)}
    for name, (was, now) in changed.items():
        metric = f"definition {name}".rstrip()
        yield Reason(metric=metric, old=was, new=now, verdict="incomparable")


def changed_settings(old: Record, new: Record) -> dict[str, tuple[str | None, str | None]]:
    """Return the settings of both sides that differ, by name; none if a side did not record any."""
    if old.settings is UNSET or new.settings is UNSET:
        return {}
    sides = old.settings, new.settings
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}
    return {name: (was, now) for name, (was, now) in pairs.items() if was != now}


def cost_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield the main costs that another definition changed."""
    for name in _COSTS:
        was, now = old.metrics.get(name), new.metrics.get(name)
        if was is None or now is None or was.value == now.value:
            continue
        yield Reason(
            metric=name,
            old=was.value,
            new=now.value,
            relative_change=now.value / was.value - 1 if was.value else None,
            verdict="incomparable",
            spec=now.spec,
        )


_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|/\S+|[\w.]*\d[\w.]*")
"""The names, paths and numbers in a message."""
_MOST_GROWTH: Final = 10


def error_pattern(error: Failure | None) -> str:
    """Return type and message of an error without its names and numbers; '' for none."""
    return "" if error is None else f"{error.type}: {_pattern(error.message)}"


def _pattern(text: str) -> str:
    return _VARYING.sub("*", text)


def is_same_error(old: Failure | None, new: Failure | None) -> bool:
    """Return whether two cases fail with the same error, after as many steps."""
    return error_pattern(old) == error_pattern(new) and (
        old is None
        or new is None
        or UNSET in (old.after_steps, new.after_steps)
        or old.after_steps == new.after_steps
    )


def error_text(record: Record) -> str:
    """Return the status with its error, and after how many steps it was raised."""
    error = record.error
    if error is None or error.after_steps is UNSET:
        return record.status_text
    return f"{record.status_text} after {count_of(error.after_steps, 'step')}"


def is_known(name: str, old: Record, new: Record) -> bool:
    """Return whether an invariant that is false on both sides is no worse, and by the same cause.

    By the same error; or in no other tensors, and off by at most ten times as much. Where a defect
    is told in words alone, by the same words.
    """
    if old.defects is UNSET or new.defects is UNSET:
        return True
    was, now = old.defects.get(name, Defect()), new.defects.get(name, Defect())
    if Defect() in (was, now):
        return was == now and _pattern(old.note_on(name)) == _pattern(new.note_on(name))
    return (
        error_pattern(was.error) == error_pattern(now.error)
        and set(now.tensors) <= set(was.tensors)
        and _is_no_larger(was.size, now.size)
    )


def _is_no_larger(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return new <= _MOST_GROWTH * old


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


def training_facts(old: Record, new: Record) -> Iterator[Reason | Remark]:
    """Compare the model, the inputs of its training, and the trained parameters."""
    model = model_changes(old, new)
    if model is not None:
        words = model.words("no longer has", "newly has", "changed shape")
        yield Remark(kind="model", subject="model", text=words)
    difference = first_difference(old, new)
    if difference is None:
        yield from _rate_reasons(old, new)
    elif _both_depend_on_inputs(old, new):
        yield Reason(
            metric="inputs",
            old=f"{difference.where}: {difference.old}",
            new=difference.new,
            verdict="incomparable",
        )
    yield from _trained_reasons(old, new)
    yield from _numerics_reasons(old, new)
    yield from _script_reasons(old, new)


def _both_depend_on_inputs(old: Record, new: Record) -> bool:
    return any(
        metric.kind in OF_INPUTS and name in old.metrics for name, metric in new.metrics.items()
    )


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
    """Compare the precision: it decides the bounds, so that another precision is a regression."""
    before, after = numerics_of(old), numerics_of(new)
    if before != after:
        words = f"the precision changed from {before} to {after}"
        yield Reason(metric="numerics", old=before, new=words, verdict="regressed")


def _script_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare what the libraries of a script choose for it: its optimizers and its precision."""
    if old.script is UNSET or new.script is UNSET:
        return
    before, after = " ".join(old.script.optimizers), " ".join(new.script.optimizers)
    if before != after:
        yield Reason(metric="optimizer", old=before, new=after, verdict="regressed")
    elif old.inputs is not UNSET and new.inputs is not UNSET:
        for found in optimizer_differences(old.inputs, new.inputs):
            words = f"{found.where}: {found.new}"
            yield Reason(metric="optimizer", old=found.old, new=words, verdict="regressed")
    if old.script.autocast != new.script.autocast:
        sides = (one.script.autocast or "off" for one in (old, new) if one.script is not UNSET)
        was, now = sides
        yield Reason(metric="autocast", old=was, new=now, verdict="regressed")


def invariant_findings(old: Observation, new: Observation) -> Iterator[Reason | Remark]:
    """Compare the invariants."""
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
    """Return the reason about an invariant; None if it did not change."""
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
