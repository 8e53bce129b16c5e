"""One layout of weights for all formulas: (outputs, inputs, *kernel), dense."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

from peft_fuzz.example import Kind, Layer

if TYPE_CHECKING:
    from torch import Tensor


CONVOLUTIONS: Final = frozenset[str]({"conv1d", "conv2d", "conv3d"})
TRANSPOSED: Final = frozenset[str]({"embedding", "transposed_linear"})
"""Stored as (inputs, outputs); an embedding's inputs are its tokens."""


def as_rows(weight: Tensor, kind: Kind) -> Tensor:
    """Return a stored weight as (outputs, inputs, *kernel), or a result as it is stored."""
    return weight.T if kind in TRANSPOSED else weight


def dense(weight: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution's weight with zeros between its groups.

    weight: (outputs, inputs / groups, *kernel); the result: (outputs, inputs, *kernel).
    """
    if groups == 1:
        return weight
    import torch

    outputs, inputs = weight.shape[:2]
    rows = outputs // groups
    full = torch.zeros(outputs, inputs * groups, *weight.shape[2:], dtype=weight.dtype)
    for group in range(groups):
        of = slice(group * rows, (group + 1) * rows)
        full[of, group * inputs : (group + 1) * inputs] = weight[of]
    return full


def fan_in(layer: Layer) -> int:
    """Return how many inputs each output of a layer is made of, groups left out of account."""
    return layer.inputs * prod(layer.kernel)


def layer_flops(layer: Layer, positions: int) -> int:
    """Return the forward FLOPs of a layer's own operator: 2 for a multiplication and addition."""
    if layer.kind == "embedding":
        return 0
    return 2 * layer.outputs * fan_in(layer) // layer.groups * positions
