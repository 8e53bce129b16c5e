"""(IA)^3: a learned factor for each output, or for each input of a feed-forward layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import Fields, off
from peft_fuzz.methods.method import LayerAdapter, Method
from peft_fuzz.networks.network import Layer


def is_feedforward(settings: m.Settings, layer: str) -> bool:
    """Return whether `feedforward_modules` names a layer: its inputs are scaled then."""
    named = settings.get("feedforward_modules") or ()
    if isinstance(named, str):
        return re.fullmatch(named, layer) is not None
    return any(layer == name or layer.endswith(name) for name in named)


def ia3(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return l o W and l o b, or W with its inputs scaled; None if l has the other's size.

    Liu et al., arXiv:2205.05638, section 3.3: l o (W x + b) for keys and values, W (l o x) + b for
    the second layer of a feed-forward block.
    """
    weight = m.rows_of(base, layer)
    bias: Tensor | None = getattr(base, "bias", None)
    ones = (1,) * (weight.dim() - 2)
    for adapter in adapters:
        factor = adapter.tensors["ia3_l"].flatten()
        forward = is_feedforward(adapter.settings, adapter.layer_name)
        if factor.numel() != (layer.inputs if forward else layer.outputs):
            return None
        if forward:
            rows = layer.outputs // layer.groups
            # Each group of outputs sees its own inputs.
            each = factor.reshape(layer.groups, 1, -1).expand(-1, rows, -1)
            weight = weight * each.reshape(layer.outputs, -1, *ones)
        else:
            weight = weight * factor.reshape(-1, 1, *ones)
            bias = None if bias is None else bias * factor
    found = {"weight": m.as_rows(weight, layer.kind)}
    return found if bias is None else {**found, "bias": bias}


def ia3_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count nothing: inputs or outputs are scaled entry by entry, and no matrix is multiplied."""
    del layer, settings, positions
    return 0


def draw_ia3(layers: Sequence[Layer]) -> Fields:
    """Draw which layers have their inputs scaled."""
    names = [layer.name for layer in layers]
    return Fields(
        always={"feedforward_modules": st.lists(st.sampled_from(names), unique=True)},
        sometimes={"init_ia3_weights": off()},
    )


IA3: Final = Method(
    "ia3",
    m.CONFIGS["ia3"],
    "Liu et al., arXiv:2205.05638, section 3.3",
    draw_ia3,
    kinds=m.DENSE | {"conv2d", "conv3d"},
    formula=ia3,
    flops=ia3_flops,
    by_hand="scaled_by_hand",
    trains=("ia3_l",),
    identity=lambda settings: bool(settings["init_ia3_weights"]),
)
