"""The numbers of an output that are kept and compared: all of them, or a sample and sums of all."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peft_regress.cost.batches import named_tensors
from peft_regress.measure.invariants.outputs import Outputs

_MOST: Final = 4096
"""The most numbers that are kept of one tensor."""
_SUMS: Final = _MOST // 2
_SEED: Final = 0


def outputs_of(returned: Any) -> Outputs:
    """Return every tensor of fractional numbers in what a model returns, flat and in float32.

    Of a complex one, the real and the imaginary parts. What has whole numbers or truth values is
    left out: a rounding decides an index.
    """
    return tuple(_flat(tensor) for _, tensor in named_tensors(returned) if _is_fractional(tensor))


def _is_fractional(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _flat(tensor: Tensor) -> Tensor:
    found = tensor.detach()
    if found.is_complex():
        found = torch.view_as_real(found.resolve_conj())
    return found.float().flatten().clone()


def is_finite(outputs: Outputs) -> bool:
    """Return whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs)


def numbers_of(outputs: Outputs) -> list[list[float]]:
    """Return for each tensor its numbers, or 4,096 in which each of them has a part.

    Of a tensor with more they are its smallest and its largest number, 2,046 at seeded places, and
    2,048 sums with seeded signs, each over one of as many equal pieces and divided by the root of
    its size. So a tensor that differs in all places differs here by as much, and one that differs
    in a single place still differs in a sum.
    """
    # JSON has no infinities.
    return [_kept(torch.nan_to_num(tensor)).tolist() for tensor in outputs]


def _kept(flat: Tensor) -> Tensor:
    count = len(flat)
    if count <= _MOST:
        return flat
    # The numbers of this generator never change.
    generator = np.random.RandomState(_SEED)
    places = generator.randint(0, count, _MOST - _SUMS - 2)
    numbers: NDArray[np.float32] = flat.numpy()
    ends = np.array([numbers.min(), numbers.max()])
    piece = -(-count // _SUMS)
    signed = np.zeros(piece * _SUMS)
    signed[:count] = numbers
    signed[:count] *= 2 * generator.randint(0, 2, count, dtype=np.int8) - 1
    sums = signed.reshape(_SUMS, piece).sum(1) / math.sqrt(piece)
    return torch.from_numpy(np.concatenate([ends, numbers[places], sums]))
