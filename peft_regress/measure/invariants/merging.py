"""What merging keeps, what unmerging gives back, and what a refused merge leaves."""

import copy
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.catalogue.methods.method import Method
from peft_regress.measure.invariants import facts, outputs, tuner
from peft_regress.measure.invariants.filled import Filled
from peft_regress.measure.invariants.probe import Probe
from peft_regress.measure.objective import largest_of

_NO_BIAS: Final = functools.partial(
    facts.refused, "peft does not merge it", ValueError, RuntimeError, said="layer has no bias"
)


@facts.judged
def merge_equals_unmerged(adapted: nn.Module, *, adapter: Method, probe: Probe) -> None:
    """Compare the outputs merged and unmerged, in float32."""
    model, batch = outputs.in_float32(adapted, probe.batch)
    with _NO_BIAS():
        merged = adapter.merge(model)
    if merged is None:
        raise facts.null("there is no adapter that can be merged")
    if model is not adapted and (own := adapter.merge(adapted)) is not None:
        # In its own type it must still compute, although rounding hides the result.
        probe.outputs(own)
    part = outputs.without_loss if adapter.adds_to_loss else tuple
    probe.check_same(
        part(probe.objective.outputs(merged, batch)),
        part(probe.objective.outputs(model, batch)),
        tolerance=outputs.MERGE_TOLERANCE,
        layers=lambda: (probe.layers(merged), probe.layers(model)),
    )


@facts.judged
def unmerge_restores_base(filled: Filled) -> None:
    """Merge a filled adapter in place and take it out again; the model is not used afterwards.

    Merging a merged model must do nothing, and merging it after that what the first merge did; so
    with unmerging. A second adapter that was there, and not active, must have had no part in it.
    """
    tuner.require_layers(filled.model)
    model: Any = filled.model
    before, beside = facts.copies_of(model), filled.loss_merged_beside
    refused = facts.refused("peft does not merge and unmerge it", NotImplementedError)
    with tuner.quiet(), refused, _NO_BIAS():
        model.base_model.merge_adapter()
        largest = {name: largest_of(tensor) for name, tensor in facts.named_tensors(model).items()}
        model.base_model.merge_adapter()
        once = filled.loss()
        model.base_model.unmerge_adapter()
        _check_restored(before, facts.named_tensors(model), largest)
        model.base_model.merge_adapter()
        merged = {"unmerged and merged again": filled.loss()}
        if beside is not None:
            merged["merged beside a second adapter that is not active"] = beside
        for how, loss in merged.items():
            note = f"the loss of the probe is {once:.7g} when merged twice, and {loss:.7g} when"
            outputs.check_loss(loss, once, f"{note} {how}", tolerance=outputs.MERGE_TOLERANCE)
        model.base_model.unmerge_adapter()
        model.base_model.unmerge_adapter()
        again = "merged and unmerged again, "
        _check_restored(before, facts.named_tensors(model), largest, said=again)


def _check_restored(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    largest: Mapping[str, float],
    *,
    said: str = "",
) -> None:
    off = {
        name: _off_by(after.get(name), tensor, largest.get(name, 0.0))
        for name, tensor in before.items()
    }
    wrong = [
        name for name, difference in off.items() if not difference <= outputs.UNMERGE_TOLERANCE
    ]
    if wrong:
        worst = max((off[name] for name in wrong), key=facts.gravity)
        note = f"{said}{facts.listed(wrong)}: off by up to {worst:.2g} of the largest"
        raise facts.false(note, tensors=wrong, size=worst)


def _off_by(after: Tensor | None, before: Tensor, largest_merged: float) -> float:
    if after is None or after.shape != before.shape or after.dtype != before.dtype:
        return math.inf
    if torch.equal(after, before):
        return 0.0
    largest = max(largest_of(before), largest_merged)
    return largest_of(after.float() - before.float()) / largest if largest else math.inf


@facts.judged
def refused_merge_keeps_base(filled: nn.Module, parameters: Collection[str]) -> None:
    """Put a NaN into each filled parameter of the smallest layers, and merge copies of them safely.

    It holds if peft refuses and leaves the layer's base as it was. A parameter whose NaN does not
    get into what is merged need not be refused.
    """
    tuner.require_layers(filled)
    layers = tuner.smallest_layers(filled)
    if not layers:
        raise facts.null("its layers have no safe merge")
    wrong, refusals = [], 0
    for name, layer in layers.items():
        for inner in dict(layer.named_parameters()):
            if f"{name}.{inner}" not in parameters:
                continue
            try:
                with tuner.quiet(), facts.refused("peft does not merge it", NotImplementedError):
                    problem, was_refused = _with_nan(layer, inner)
            except facts.FactError:
                raise
            except Exception as error:  # noqa: BLE001
                problem, was_refused = facts.raised(error).note, True
            refusals += was_refused
            if problem:
                wrong.append(f"NaN in {name}.{inner}: {problem}")
    if not (wrong or refusals):
        raise facts.null("no NaN in the adapter gets into what is merged")
    facts.check_none(wrong)


def _with_nan(layer: nn.Module, parameter: str) -> tuple[str, bool]:
    """Return what is wrong about a safe merge of a copy with a NaN, and whether peft refused it."""
    copied: Any = copy.deepcopy(layer)
    with torch.no_grad():
        poisoned = copied.get_parameter(parameter)
        poisoned[(0,) * poisoned.ndim] = math.nan
    before = facts.copies_of(copied.get_base_layer())
    is_refused = False
    try:
        with _NO_BIAS():
            copied.merge(safe_merge=True)
    except (ValueError, facts.FactError):
        is_refused = True
    after = facts.named_tensors(copied.get_base_layer())
    if not is_refused:
        broken = [name for name, tensor in after.items() if not bool(torch.isfinite(tensor).all())]
        return (f"merged without a refusal into {facts.listed(broken)}" if broken else ""), False
    if changed := facts.moved(before, after):
        return f"refused, after it was merged into {facts.listed(changed)}", True
    return ("refused, and yet merged by its own account" if copied.merged else ""), True
