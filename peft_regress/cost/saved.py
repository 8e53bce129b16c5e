"""What autograd keeps from the forward to the backward pass although no gradient needs it.

An operator of the backward pass gets all that its operator of the forward pass kept. Its kernel may
read less: the input of a convolution is for the gradient of its weight, that of BatchNorm in eval
mode likewise, and of ReLU6 the backward pass asks only where it was within the bounds.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

aten = torch.ops.aten

_MASK_BYTES: Final = 1
_INDEX_BYTES: Final = 4


class Enough(NamedTuple):
    """What would do in the place of the operands of an operator of the backward pass."""

    operator: str
    """The operator of the forward pass, for people."""
    sizes: Callable[[tuple[Any, ...]], dict[int, int]]
    """(arguments) -> by position: the bytes that would do for each element."""


def _masked(operator: str) -> Enough:
    return Enough(operator, lambda _args: {1: _MASK_BYTES})


def _pooled(operator: str) -> Enough:
    return Enough(operator, lambda _args: {1: 0})


def _of_max_pooling(args: tuple[Any, ...]) -> dict[int, int]:
    return {1: 0, len(args) - 1: _INDEX_BYTES}


def _of_convolution(args: tuple[Any, ...]) -> dict[int, int]:
    _, is_weight_trained, _ = args[-1]
    return {} if is_weight_trained else {1: 0}


def _of_batch_norm(args: tuple[Any, ...]) -> dict[int, int]:
    (*_, is_by_batch, _eps, (_, is_weight_trained, _)) = args
    return {} if is_by_batch or is_weight_trained else {1: 0}


ENOUGH: Final[dict[Any, Enough]] = {
    aten.convolution_backward: Enough("convolution", _of_convolution),
    aten.native_batch_norm_backward: Enough("BatchNorm", _of_batch_norm),
    aten.threshold_backward: _masked("ReLU"),
    aten.hardtanh_backward: _masked("ReLU6"),
    aten.max_pool2d_with_indices_backward: Enough("max pooling", _of_max_pooling),
    aten.avg_pool2d_backward: _pooled("average pooling"),
    aten._adaptive_avg_pool2d_backward: _pooled("average pooling"),  # noqa: SLF001
}
"""By operator of the backward pass. The others need all operands as they are."""
