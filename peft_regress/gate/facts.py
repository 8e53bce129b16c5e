"""Reasons that are about no metric: status, definition, inputs, trained parameters, invariants.

Pure. What an old record could not say is no difference.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import UNSET

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
from peft_regress.metrics import Kind
from peft_regress.runs.schema import Defect, Failure, Inputs, Record, ScriptFacts, TensorSummary
from peft_regress.text import count_of, few

Shapes = Mapping[str, Sequence[int]]

OF_INPUTS: Final[frozenset[Kind]] = frozenset({"fingerprint", "accuracy", "score"})
"""The kinds of metrics whose values depend on the weights and the data that go in."""
_TOLERANCE: Final = 1e-5
"""How far a number of the inputs may differ, relative to its size: processors sum differently."""
_RATE_TOLERANCE: Final = 1e-9

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

_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|/\S+|[\w.]*\d[\w.]*")
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
    models = _model_shapes(old), _model_shapes(new)
    if models[0] and models[1] and models[0] != models[1]:
        words = _shape_changes(*models, "no longer has", "newly has")
        yield Remark(kind="model", subject="model", text=words)
    difference = first_difference(old, new)
    rate = _rate_difference(old, new)
    # A schedule of one's own may follow the data; that of a script is its libraries'.
    if rate is not None and (difference is None or new.script is not UNSET):
        yield _regressed("rates", rate.old, f"{rate.where}: {rate.new}")
    if difference is not None and any(
        one.kind in OF_INPUTS and name in old.metrics for name, one in new.metrics.items()
    ):
        was = f"{difference.where}: {difference.old}"
        yield _inputs_reason(was, difference.new, same_files=same_files)
    if not old.metrics.keys().isdisjoint(new.unseeded):
        was, now = "equal in two runs of the script", f"differ: {few(new.unseeded)}"
        yield _inputs_reason(was, now, same_files=same_files)
    if old.trained is not UNSET:
        tensors = count_of(len(old.trained), "tensor")
        if new.trained is UNSET:
            yield _regressed("trained", tensors, None)
        elif new.trained != old.trained:
            words = _shape_changes(old.trained, new.trained, "no longer", "newly")
            yield _regressed("trained", tensors, f"{count_of(len(new.trained), 'tensor')}: {words}")
    before, after = numerics_of(old), numerics_of(new)
    if before != after:  # it decides the bounds
        words = f"the precision changed from {before} to {after}"
        yield _regressed("numerics", before, words)
    yield from _script_reasons(old, new)


def _script_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Compare what the libraries of a script choose for it: its optimizers and its precision."""
    if old.script is UNSET or new.script is UNSET:
        return
    before, after = (" ".join(record.optimizers) for record in (old.script, new.script))
    if before != after:
        yield _regressed("optimizer", before, after)
    elif old.inputs is not UNSET and new.inputs is not UNSET:
        for found in _optimizer_differences(old.inputs, new.inputs):
            yield _regressed("optimizer", found.old, f"{found.where}: {found.new}")
    before, after = (record.autocast or "off" for record in (old.script, new.script))
    if before != after:
        yield _regressed("autocast", before, after)


def script_remarks(new: Record) -> Iterator[Remark]:
    """Say what of a script is not judged, and which files it wrote."""
    if new.unseeded:
        yield Remark(kind="unseeded", subject="script", text=few(new.unseeded))
    if new.script is not UNSET and new.script.written:
        yield Remark(kind="written", subject="script", text=new.script.written)


def _regressed(kind: ReasonKind, old: str, new: str | None) -> Reason:
    return Reason(kind=kind, old=old, new=new, verdict="regressed")


def _inputs_reason(old: str, new: str, *, same_files: bool) -> Reason:
    if same_files:
        return _regressed("inputs", old, new)
    return Reason(kind="inputs", old=old, new=new, obstacle="inputs")


class Difference(NamedTuple):
    """One number or shape that differs between the inputs of both sides."""

    where: str
    old: str
    new: str


def first_difference(old: Record, new: Record) -> Difference | None:
    """Return the first difference between the inputs of two records.

    None if there is none, or if a side did not record its inputs. A number, or a tensor of a batch,
    that only one side has is no difference: the other may not have known it. Nor is a weight of a
    script: a release may add or drop a buffer, and the losses show what that does.
    """
    if old.inputs is UNSET or new.inputs is UNSET:
        return None
    is_fixed = old.script is UNSET or new.script is UNSET
    found = _differences(old.inputs, new.inputs, one_sided=is_fixed)
    if old.script is UNSET or new.script is UNSET:
        found = itertools.chain(found, _optimizer_differences(old.inputs, new.inputs))
    else:
        # A script's optimizer is chosen by the libraries that it uses, and judged by itself.
        found = itertools.chain(found, _batch_differences(old.script, new.script))
    return next(found, None)


def _differences(old: Inputs, new: Inputs, *, one_sided: bool) -> Iterator[Difference]:
    if old.weights and new.weights:
        yield from _tensor_differences("weights", old.weights, new.weights)
        for name in sorted(old.weights.keys() ^ new.weights.keys()) if one_sided else ():
            sides = (
                _shape_text(side[name].shape) if name in side else "absent"
                for side in (old.weights, new.weights)
            )
            yield Difference(f"weights {name}", *sides)
    yield from _tensor_differences("training batches", old.train, new.train)
    yield from _tensor_differences("test batches", old.test, new.test)


def _optimizer_differences(old: Inputs, new: Inputs) -> Iterator[Difference]:
    if old.optimizer and new.optimizer and len(old.optimizer) != len(new.optimizer):
        yield Difference("optimizer groups", str(len(old.optimizer)), str(len(new.optimizer)))
    for number, (was, now) in enumerate(zip(old.optimizer, new.optimizer, strict=False)):
        for name in sorted(was.keys() & now.keys()):
            if not math.isclose(was[name], now[name], rel_tol=_TOLERANCE):
                where = f"optimizer group {number}, {name}"
                yield Difference(where, f"{was[name]:g}", f"{now[name]:g}")


def _batch_differences(old: ScriptFacts, new: ScriptFacts) -> Iterator[Difference]:
    """Yield each argument whose whole numbers differ, with the first micro-batch that does."""
    for name in sorted(old.batches.keys() & new.batches.keys()):
        pairs = enumerate(zip(old.batches[name], new.batches[name], strict=False), 1)
        first = next(((at, was, now) for at, (was, now) in pairs if was != now), None)
        if first is not None:
            yield Difference(f"{name} of micro-batch {first[0]}", *first[1:])


def _tensor_differences(
    what: str, old: Mapping[str, TensorSummary], new: Mapping[str, TensorSummary]
) -> Iterator[Difference]:
    for name in sorted(old.keys() & new.keys()):
        before, after, where = old[name], new[name], f"{what} {name}".rstrip()
        # A mean near zero has no size of its own: the root mean square of the tensor has.
        typical = abs(before.norm) / math.sqrt(max(math.prod(map(float, before.shape)), 1.0))
        near = _TOLERANCE * typical
        if before.shape != after.shape:
            yield Difference(where, _shape_text(before.shape), _shape_text(after.shape))
        elif before.dtype != after.dtype:
            yield Difference(where, before.dtype, after.dtype)
        elif not math.isclose(before.norm, after.norm, rel_tol=_TOLERANCE):
            yield Difference(where, f"norm {before.norm:.7g}", f"norm {after.norm:.7g}")
        elif not math.isclose(before.mean, after.mean, rel_tol=_TOLERANCE, abs_tol=near):
            yield Difference(where, f"mean {before.mean:.7g}", f"mean {after.mean:.7g}")


def _rate_difference(old: Record, new: Record) -> Difference | None:
    """Return the first step after which a learning rate differs; None if a side recorded none.

    Rates may differ in their last bits, since machines compute a cosine differently.
    """
    if old.rates is UNSET or new.rates is UNSET:
        return None
    if len(old.rates) != len(new.rates):
        return Difference("the number of learning rates", str(len(old.rates)), str(len(new.rates)))
    for number, (was, now) in enumerate(zip(old.rates, new.rates, strict=True)):
        least = _RATE_TOLERANCE * max(map(abs, was), default=0.0)
        for step in range(max(len(was), len(now))):
            # After its last change a rate stays.
            a, b = was[min(step, len(was) - 1)], now[min(step, len(now) - 1)]
            if not math.isclose(a, b, rel_tol=_RATE_TOLERANCE, abs_tol=least):
                group = f" of group {number}" if number else ""
                return Difference(f"learning rate{group} after step {step + 1}", f"{a:g}", f"{b:g}")
    return None


def _shape_text(shape: Sequence[int]) -> str:
    """Return a shape as '16x8x3x3'; that of a single number as 'scalar'."""
    return "x".join(map(str, shape)) or "scalar"


def _model_shapes(record: Record) -> Shapes:
    """Return the shapes of the unadapted model; none if not all were recorded."""
    weights = {} if record.inputs is UNSET or record.unseeded else record.inputs.weights
    return {name: one.shape for name, one in weights.items()}


def _shape_changes(old: Shapes, new: Shapes, gone: str, come: str) -> str:
    """Return how two sets of named shapes differ, in words: the first few names of each kind."""
    reshaped = (
        f"{name} {_shape_text(old[name])} -> {_shape_text(new[name])}"
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
    is_lost = was is not None and not (needs_inputs and first_difference(old, new))
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
