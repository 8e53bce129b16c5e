"""Judge what trains, and from what: the model, its inputs, its parameters, what a script chose.

Pure. What an old record could not say is no difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from msgspec import UNSET

from peft_regress.gate import inputs
from peft_regress.gate.policy import numerics_of
from peft_regress.gate.verdicts import Reason, ReasonKind, Remark
from peft_regress.runs.schema import Record
from peft_regress.text import count_of, few

Shapes = Mapping[str, Sequence[int]]


def training_findings(
    old: Record, new: Record, *, same_files: bool = False
) -> Iterator[Reason | Remark]:
    """Compare the model, the inputs of its training, and the trained parameters."""
    yield from _model_change(old, new)
    difference, rate = inputs.telling_difference(old, new), inputs.rate_difference(old, new)
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


def _inputs_reasons(
    old: Record, new: Record, difference: inputs.Difference | None
) -> Iterator[Reason]:
    common = (one for name, one in new.metrics.items() if name in old.metrics)
    if difference is not None and any(one.kind in inputs.OF_INPUTS for one in common):
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
        for found in inputs.optimizer_differences(old.inputs, new.inputs):
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
        f"{name} {inputs.shape_text(old[name])} -> {inputs.shape_text(new[name])}"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    )
    parts = {
        gone: sorted(old.keys() - new.keys()),
        come: sorted(new.keys() - old.keys()),
        "changed shape": list(reshaped),
    }
    return "; ".join(f"{words} {few(names)}" for words, names in parts.items() if names)
