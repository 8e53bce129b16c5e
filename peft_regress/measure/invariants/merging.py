"""What merging keeps, what unmerging gives back, and what a refused merge leaves."""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.catalogue.methods.method import Method
from peft_regress.measure.invariants import facts, tuner
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.filled import Filled
from peft_regress.measure.invariants.outputs import (
    MERGE_TOLERANCE,
    UNMERGE_TOLERANCE,
    Outputs,
    in_float32,
)
from peft_regress.measure.invariants.probe import LayerOutputs, Probe

_NO_LAYERS: Final = "it is no adapter in layers of peft"


def merge_equals_unmerged(adapted: nn.Module, *, adapter: Method, probe: Probe) -> Fact:
    """Compare the outputs merged and unmerged, in float32."""
    outputs, worked = facts.attempt(lambda: _merged_outputs(adapted, adapter, probe))
    if not worked.holds:
        return worked
    if outputs is None:
        return Fact.null("there is no adapter that can be merged")

    def layers() -> tuple[LayerOutputs, LayerOutputs]:
        model, _ = in_float32(adapted, probe.batch)
        merged = adapter.merge(model)
        return ({} if merged is None else probe.layers(merged)), probe.layers(model)

    return probe.same(*outputs, tolerance=MERGE_TOLERANCE, layers=layers)


def _merged_outputs(
    adapted: nn.Module, adapter: Method, probe: Probe
) -> tuple[Outputs, Outputs] | None:
    model, batch = in_float32(adapted, probe.batch)
    merged = adapter.merge(model)
    if merged is None:
        return None
    if model is not adapted and (own := adapter.merge(adapted)) is not None:
        # In its own type it must still compute, although rounding hides the result.
        probe.outputs(own)
    return probe.objective.outputs(merged, batch), probe.objective.outputs(model, batch)


def unmerge_restores_base(filled: Filled) -> Fact:
    """Merge a filled adapter in place and take it out again; the model is not used afterwards.

    Merging a merged model must do nothing, and merging it after that what the first merge did; so
    with unmerging. A second adapter that was there, and not active, must have had no part in it.
    """
    if not tuner.layers_of(filled.model):
        return Fact.null(_NO_LAYERS)
    try:
        with tuner.quiet():
            return _undone(filled)
    except NotImplementedError as error:
        return Fact.null(f"peft does not merge and unmerge it: {facts.told_of(error)}")
    except Exception as error:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return facts.raised(error)


def _undone(filled: Filled) -> Fact:
    model: Any = filled.model
    before = facts.copies_of(model)
    model.base_model.merge_adapter()
    largest = {name: _largest(tensor) for name, tensor in facts.named_tensors(model).items()}
    model.base_model.merge_adapter()
    once = filled.loss()
    model.base_model.unmerge_adapter()
    restored = _restored(before, facts.named_tensors(model), largest)
    if not restored.holds:
        return restored
    model.base_model.merge_adapter()
    again = filled.loss()
    beside = filled.loss_merged_beside
    for how, loss in (
        ("unmerged and merged again", again),
        ("merged beside a second adapter that is not active", once if beside is None else beside),
    ):
        if not math.isclose(once, loss, rel_tol=MERGE_TOLERANCE):
            return Fact.false(
                f"the loss of the probe is {once:.7g} when merged twice, and {loss:.7g} when {how}",
                size=abs(once - loss) / max(abs(once), abs(loss)),
            )
    model.base_model.unmerge_adapter()
    model.base_model.unmerge_adapter()
    restored = _restored(before, facts.named_tensors(model), largest)
    if restored.holds:
        return restored
    return restored._replace(note=f"merged and unmerged again, {restored.note}")


def _restored(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], largest: Mapping[str, float]
) -> Fact:
    off = {
        name: _off_by(after.get(name), tensor, largest.get(name, 0.0))
        for name, tensor in before.items()
    }
    wrong = [name for name, difference in off.items() if not difference <= UNMERGE_TOLERANCE]
    if not wrong:
        return Fact(holds=True)
    worst = max((off[name] for name in wrong), key=lambda number: (math.isnan(number), number))
    note = f"{listed(wrong)}: off by up to {worst:.2g} of the largest"
    return Fact.false(note, tensors=wrong, size=worst)


def _off_by(after: Tensor | None, before: Tensor, largest_merged: float) -> float:
    if after is None or after.shape != before.shape or after.dtype != before.dtype:
        return math.inf
    if torch.equal(after, before):
        return 0.0
    largest = max(_largest(before), largest_merged)
    return _largest(after.float() - before.float()) / largest if largest else math.inf


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def refused_merge_keeps_base(filled: nn.Module, parameters: Collection[str]) -> Fact:
    """Put a NaN into each filled parameter of the smallest layers, and merge copies of them safely.

    It holds if peft refuses and leaves the layer's base as it was. A parameter whose NaN does not
    get into what is merged need not be refused.
    """
    layers = tuner.smallest_layers(filled)
    if not layers:
        has_layers = tuner.layers_of(filled)
        return Fact.null("its layers have no safe merge" if has_layers else _NO_LAYERS)
    wrong, refusals = [], 0
    for name, layer in layers.items():
        for inner in dict(layer.named_parameters()):
            if f"{name}.{inner}" not in parameters:
                continue
            try:
                with tuner.quiet():
                    problem, refused = _with_nan(layer, inner)
            except NotImplementedError as error:
                return Fact.null(f"peft does not merge it: {facts.told_of(error)}")
            except Exception as error:  # noqa: BLE001
                problem, refused = facts.raised(error).note, True
            refusals += refused
            if problem:
                wrong.append(f"NaN in {name}.{inner}: {problem}")
    if not (wrong or refusals):
        return Fact.null("no NaN in the adapter gets into what is merged")
    return Fact.unless(wrong)


def _with_nan(layer: nn.Module, parameter: str) -> tuple[str, bool]:
    """Return what is wrong about a safe merge of a copy with a NaN, and whether peft refused it."""
    copied: Any = copy.deepcopy(layer)
    with torch.no_grad():
        poisoned = copied.get_parameter(parameter)
        poisoned[(0,) * poisoned.ndim] = math.nan
    before = facts.copies_of(copied.get_base_layer())
    is_refused = False
    try:
        copied.merge(safe_merge=True)
    except ValueError:
        is_refused = True
    after = facts.named_tensors(copied.get_base_layer())
    if not is_refused:
        broken = [name for name, tensor in after.items() if not bool(torch.isfinite(tensor).all())]
        return (f"merged without a refusal into {listed(broken)}" if broken else ""), False
    if changed := facts.moved(before, after):
        return f"refused, after it was merged into {listed(changed)}", True
    return ("refused, and yet merged by its own account" if copied.merged else ""), True
