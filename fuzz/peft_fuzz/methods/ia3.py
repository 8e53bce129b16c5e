"""(IA)^3: a learned factor for each output, or for each input of a feed-forward layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import as_rows
from peft_fuzz.methods.method import LayerAdapter, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_feedforward(settings: Mapping[str, Any], layer: str) -> bool:
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
    weight = as_rows(base.weight, layer.kind)  # type: ignore[arg-type]
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
    found = {"weight": as_rows(weight, layer.kind)}
    return found if bias is None else {**found, "bias": bias}


def ia3_flops(layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool) -> int:
    """Count nothing: inputs or outputs are scaled entry by entry, and no matrix is multiplied."""
    del layer, settings, positions, training
    return 0


IA3: Final = Method(
    name="ia3",
    config="IA3Config",
    kinds=frozenset[Any]({"conv2d", "conv3d", "linear", "transposed_linear"}),
    abilities=frozenset({"merge", "several_active", "unmerge"}),
    source="Liu et al., arXiv:2205.05638, section 3.3",
    formula=ia3,
    trains=("ia3_l",),
    flops=ia3_flops,
    needed=frozenset({"feedforward_modules"}),
    identity=lambda settings: bool(settings["init_ia3_weights"]),
)
