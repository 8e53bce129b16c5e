"""Reasons that are about no metric: status, definition, inputs, trained parameters, invariants.

Pure. What an old record could not say is no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from msgspec import UNSET

from peft_regress.gate.inputs import (
    OF_INPUTS,
    Difference,
    optimizer_differences,
    rate_difference,
    shape_text,
    telling_difference,
)
from peft_regress.gate.policy import numerics_of
from peft_regress.gate.verdicts import (
    Observation,
    Reason,
    ReasonKind,
    Remark,
    Value,
    Verdict,
)
from peft_regress.invariants import INVARIANTS
from peft_regress.runs.schema import Defect, Failure, Record
from peft_regress.text import count_of, few

Shapes = Mapping[str, Sequence[int]]

_STATUS_RANK: Final = {"ok": 0, "unsupported": 1, "error": 2}
_COSTS: Final = (
    "trainable_params",
    "adapter_bytes",
    "forward_flops",
    "backward_flops",
    "optimizer_flops",
    "peak_bytes",
)
"""What a reader asks of another definition; nothing is judged."""

_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|~?/\S+|[\w.]*\d[\w.]*")
"""The names, paths and numbers in a message."""
_MOST_GROWTH: Final = 10


# --- status and definition ------------------------------------------------------------------------


def status_reason(old: Record, new: Record) -> Reason | None:
    """Return how the state changed, None if there is nothing to say.

    ok < unsupported < error; a step up newly fails, and so does another error.
    """
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
        verdict, texts = "newly_failing", (error_text(old), error_text(new))
    return Reason(kind="status", old=texts[0], new=texts[1], verdict=verdict)


def error_pattern(error: Failure | None) -> str:
    """Return type and message of an error without its names and numbers; '' for none."""
    return "" if error is None else f"{error.type}: {_VARYING.sub('*', error.message)}"


def _is_same_error(old: Failure | None, new: Failure | None) -> bool:
    """Return whether two cases fail with the same error, after as many steps."""
    steps = {one.after_steps for one in (old, new) if one and one.after_steps is not UNSET}
    return error_pattern(old) == error_pattern(new) and len(steps) < 2  # noqa: PLR2004


def error_text(record: Record) -> str:
    """Return the status with its error, and after how many steps it came."""
    error = record.error
    if error is None or error.after_steps is UNSET:
        return record.status_text
    return f"{record.status_text} after {count_of(error.after_steps, 'step')}"


def definition_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield each setting that differs; without any, both digests."""
    changed = changed_settings(old, new) or {"": (old.definition, new.definition)}
    for name, (was, now) in changed.items():
        yield Reason(kind="definition", subject=name, old=was, new=now, obstacle="definition")


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
            kind="metric",
            subject=name,
            old=was.value,
            new=now.value,
            relative_change=now.value / was.value - 1 if was.value else None,
            obstacle="definition",
            spec=now.spec,
        )


# --- what trains, and from what -------------------------------------------------------------------


def training_facts(
    old: Record, new: Record, *, same_files: bool = False
) -> Iterator[Reason | Remark]:
    """Compare the model, the inputs of its training, and the trained parameters."""
    yield from _model_change(old, new)
    difference, rate = telling_difference(old, new), rate_difference(old, new)
    # A schedule of one's own may follow the data; that of a script is its libraries'.
    if rate is not None and (difference is None or new.script is not UNSET):
        yield _regressed("rates", rate.old, rate.new, note=rate.where)
    # If both sides ran the same files, the packages changed the inputs.
    for reason in _inputs_reasons(old, new, difference):
        yield reason if same_files else _of_other_inputs(reason)
    yield from _trained_reasons(old, new)
    before, after = numerics_of(old), numerics_of(new)
    if before != after:  # it decides the bounds
        words = f"the precision changed from {before} to {after}"
        yield _regressed("numerics", before, words)
    yield from _script_reasons(old, new)


def _inputs_reasons(old: Record, new: Record, difference: Difference | None) -> Iterator[Reason]:
    common = (one for name, one in new.metrics.items() if name in old.metrics)
    if difference is not None and any(one.kind in OF_INPUTS for one in common):
        was, now, part = difference.old, difference.new, difference.part
        yield _regressed("inputs", was, now, note=difference.where, subject=part)
    if not old.metrics.keys().isdisjoint(new.unseeded):
        was, now = "equal in two runs of the script", f"differ: {few(new.unseeded)}"
        yield _regressed("inputs", was, now, subject="seed")


def _model_change(old: Record, new: Record) -> Iterator[Reason | Remark]:
    """Compare the unadapted model: that of a script is its libraries' doing."""
    was, now = _model_shapes(old), _model_shapes(new)
    if not was or not now or was == now:
        return
    words = _shape_changes(was, now, "no longer has", "newly has")
    totals = [side.metrics.get("total_params") for side in (old, new)]
    if new.script is not UNSET and None not in totals and totals[0] != totals[1]:
        yield _regressed("model", count_of(len(was), "tensor"), f"the model {words}")
    else:  # a buffer, or a case whose author wrote the model
        yield Remark(kind="model", subject="model", text=words)


def _trained_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare what trains. Where equal parameters have other names, nothing got worse."""
    if old.trained is UNSET or new.trained == old.trained:
        return
    tensors = count_of(len(old.trained), "tensor")
    if new.trained is UNSET:
        yield _regressed("trained", tensors, None)
        return
    words = _shape_changes(old.trained, new.trained, "no longer", "newly")
    reason = _regressed("trained", tensors, f"{count_of(len(new.trained), 'tensor')}: {words}")
    is_renamed = (
        old.curve is not UNSET
        and new.curve is not UNSET
        and old.curve.losses == new.curve.losses
        and sorted(old.trained.values()) == sorted(new.trained.values())
    )
    yield _of_other_inputs(reason) if is_renamed else reason


def _script_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare what the libraries of a script choose for it: its optimizers and its precision."""
    if old.script is UNSET or new.script is UNSET:
        return
    before, after = (" ".join(record.optimizers) for record in (old.script, new.script))
    if before != after:
        yield _regressed("optimizer", before, after)
    elif old.inputs is not UNSET and new.inputs is not UNSET:
        for found in optimizer_differences(old.inputs, new.inputs):
            yield _regressed("optimizer", found.old, found.new, note=found.where)
    before, after = (record.autocast or "off" for record in (old.script, new.script))
    if before != after:
        yield _regressed("autocast", before, after)


def script_remarks(new: Record) -> Iterator[Remark]:
    """Say what of a script is not judged or cannot be seen, and which files it wrote."""
    for name, operators in new.uncounted.items():
        text = f"there is no FLOP formula for {few(operators)}"
        yield Remark(kind="not judged", subject=name, text=text)
    if new.unseeded:
        yield Remark(kind="unseeded", subject="script", text=few(new.unseeded))
    if new.script is not UNSET and new.script.written:
        yield Remark(kind="written", subject="script", text=new.script.written)
    for text in () if new.script is UNSET else new.script.unseen:
        yield Remark(kind="unseen", subject="script", text=text)


def _regressed(
    kind: ReasonKind, old: str | None, new: str | None, *, note: str = "", subject: str = ""
) -> Reason:
    return Reason(kind=kind, subject=subject, old=old, new=new, verdict="regressed", note=note)


def _of_other_inputs(reason: Reason) -> Reason:
    """Return a reason that does not say whether anything got worse, since the inputs differ."""
    return replace(reason, verdict="incomparable", obstacle="inputs")


def _model_shapes(record: Record) -> Shapes:
    """Return the shapes of the unadapted model; none if not all were recorded."""
    weights = {} if record.inputs is UNSET or record.unseeded else record.inputs.weights
    return {name: one.shape for name, one in weights.items()}


def _shape_changes(old: Shapes, new: Shapes, gone: str, come: str) -> str:
    """Return how two sets of named shapes differ, in words: the first few names of each kind."""
    reshaped = (
        f"{name} {shape_text(old[name])} -> {shape_text(new[name])}"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    )
    parts = {
        gone: sorted(old.keys() - new.keys()),
        come: sorted(new.keys() - old.keys()),
        "changed shape": list(reshaped),
    }
    return "; ".join(f"{words} {few(names)}" for words, names in parts.items() if names)


# --- invariants -----------------------------------------------------------------------------------


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
        before: Value
        after: Value
        before, after = was.get(name), now.get(name)
        if before is after is False and verdict == "regressed":
            before, after = (f"false: {one.record.note_on(name)}" for one in (old, new))
            note = ""
        yield Reason(
            kind="invariant",
            subject=name,
            old=before,
            new=after,
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
        words = {_VARYING.sub("*", record.note_on(name)) for record in (old, new)}
        return was == now and len(words) == 1
    if was.size is None or now.size is None:
        is_no_larger = was.size is now.size
    else:
        is_no_larger = now.size <= _MOST_GROWTH * was.size
    return (
        is_no_larger
        and error_pattern(was.error) == error_pattern(now.error)
        and set(now.tensors) <= set(was.tensors)
    )
