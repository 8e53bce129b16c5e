"""Check that a forward pass needs no more FLOPs than the method's formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from peft_fuzz.networks.network import Layer
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life


def check_cost(life: Life) -> None:
    """Raise NotHeldError if a forward pass needs more than the formulas of what is active.

    Asked at the end of a life, so that a known cost hides no other defect.
    """
    plan, layers = life.plan, life.on.network.layers
    if plan.ended or not plan.enabled or not plan.active or life.on.network.seed:
        return
    if any(layer.kind == "attention" or layer.same_as for layer in layers):
        return  # the counter does not know the fast path of attention
    if plan.merged and plan.merged != plan.active:
        return
    positions, base = _count_base(life)
    allowed = base
    for name in () if plan.merged else plan.active:
        if plan.copies(name) or plan.padded:
            return
        for layer in layers:
            if layer.name not in plan.targets(name):
                continue
            more = life.method.extra_flops(layer, plan.settings[name], positions[layer.name])
            if more is None:
                return
            allowed += more
    needed = _count(life.model, life.x)
    if needed > allowed:
        fail(
            "cost",
            f"A forward pass needs {needed} FLOPs, {needed - base} more than the base; "
            f"the formula needs {allowed - base} more.",
        )


def _count_base(life: Life) -> tuple[dict[str, int], int]:
    positions: dict[str, int] = {}
    hooks = []
    for layer in life.on.network.layers:

        def note(_module: nn.Module, _inputs: Any, output: Tensor, layer: Layer = layer) -> None:
            positions[layer.name] = output.numel() // layer.outputs

        hooks.append(life.origin.get_submodule(layer.name).register_forward_hook(note))
    try:
        return positions, _count(life.origin, life.x)
    finally:
        for hook in hooks:
            hook.remove()


def _count(model: nn.Module, x: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    model.eval()
    with torch.no_grad(), counter:
        model(x)
    return int(counter.get_total_flops())
