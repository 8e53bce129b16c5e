"""The fingerprint of an optimizer: what it does to three small tensors until it renews its state.

A fine-tune is too short for what an optimizer does late, such as GaLore's refresh at step 16 of 22,
where the learning rate is nearly zero. So the optimizer is also run by itself, at its full rate.

An optimizer may project gradients by singular vectors, whose signs are a library's choice. The
moments in the old projection meet gradients in the new one, and their sum would depend on those
signs. It does not with the gradients here: before and after the refresh, the rows of the projected
gradient are orthogonal, and all elements of a row are of one size, so that the mixed term of the
update's norm is zero for any signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress.measure.seeding import seed_all

_SHAPES: Final = ((32,), (32, 16), (16, 8, 2, 2))
"""A vector, a tall matrix, and a convolution that is a wide one: GaLore projects either side."""
_SIDES: Final = (32, 16)
_WEIGHT: Final = 1e-3
"""Of each element at the start: near an update, so that rounding of the sum stays small."""

_USUAL_GAP: Final = 15
_LONGEST_GAP: Final = 200


class _ThreeTensors(nn.Module):
    """A module with one parameter of each shape."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(
            nn.Parameter(torch.full(shape, _WEIGHT, dtype=dtype, device=device))
            for shape in _SHAPES
        )


def optimizer_updates(
    make_optimizer: Callable[[nn.Module], Optimizer], *, dtype: torch.dtype, device: torch.device
) -> list[list[float]] | None:
    """Return the norms of updates, to see what an optimizer does when it renews its state.

    One list for each tensor: of the first two updates, of the last before the refresh, and of the
    two from it on; each relative to the norm of the weights at the start. The gap between refreshes
    is the optimizer's `update_proj_gap`. None if the optimizer cannot be made for three tensors by
    themselves, or does not train all of them.
    """
    seed_all(0)
    model = _ThreeTensors(dtype=dtype, device=device)
    try:
        optimizer = make_optimizer(model)
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        if not held.issuperset(map(id, model.tensors)):
            return None  # it chose parameters by names that these do not have
        gap = _gap_of(optimizer)
        updates = [_updated(model, optimizer, step, gap) for step in range(gap + 2)]
    except Exception:  # noqa: BLE001  (it was written for another model)
        return None
    kept = (0, 1, gap - 1, gap, gap + 1)
    return [[updates[step][tensor] for step in kept] for tensor in range(len(_SHAPES))]


def _gap_of(optimizer: Optimizer) -> int:
    """Return the steps between two refreshes; of none, of no integer or of a long one, a usual."""
    gaps = [group.get("update_proj_gap") for group in optimizer.param_groups]
    known = [gap for gap in gaps if isinstance(gap, int) and 1 < gap <= _LONGEST_GAP]
    return max(known, default=_USUAL_GAP)


def _updated(model: _ThreeTensors, optimizer: Optimizer, step: int, gap: int) -> list[float]:
    """Take one step; return the norm of each tensor's update, relative to that of its weights."""
    before = [parameter.detach().double() for parameter in model.tensors]
    for parameter in model.tensors:
        gradient = _gradient(tuple(parameter.shape), step, gap)
        parameter.grad = gradient.to(parameter.dtype).to(parameter.device)
    optimizer.step()
    return [
        (parameter.detach().double() - start).norm().item()
        / (_WEIGHT * math.sqrt(parameter.numel()))
        for parameter, start in zip(model.tensors, before, strict=True)
    ]


def _gradient(shape: tuple[int, ...], step: int, gap: int) -> Tensor:
    """Return the gradient at a step (from 0): others from the refresh on, of sizes that vary.

    Of more than one dimension it has 16 singular values, from 1 to 0.5 of the step's size. It is
    equal to the last bit on every machine: of an element that should be zero, AdamW would make a
    full step in the direction of its rounding.
    """
    long, short = (_walsh(size).double() for size in _SIDES)
    size = 1 + step % 3 / 4
    is_new = step >= gap
    if len(shape) == 1:
        return size * long[int(is_new)]
    values = torch.linspace(1, 0.5, len(short), dtype=torch.float64)
    # Other long vectors than before, and the short ones for other singular values.
    left = long[len(short) :] if is_new else long[: len(short)]
    right = short.roll(5, dims=0) if is_new else short
    tall = (size * left.T @ torch.diag(values) @ right).round(decimals=9)
    return tall if shape[0] == _SIDES[0] else tall.T.reshape(shape)


def _walsh(size: int) -> Tensor:
    """Return orthogonal rows of one length, all elements of one size; `size` is a power of two."""
    rows = torch.ones(1, 1)
    while len(rows) < size:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / math.sqrt(size)
