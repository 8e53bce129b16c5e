"""What autograd keeps from the forward to the backward pass although no gradient needs it.

An operator of the backward pass gets all that its operator of the forward pass kept. Which of it
the kernel reads depends on what else trains: the input of a convolution is for the gradient of its
weight alone, that of BatchNorm in eval mode likewise.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch

from peft_regress.cost.step_cost import ByteSite

Args = tuple[Any, ...]
aten = torch.ops.aten

_MASK: Final = 1
_INDEX: Final = 4


class Enough(NamedTuple):
    """What would do in the place of an operand of the backward pass."""

    operator: str
    """As people call the operator of the forward pass."""
    bytes: Callable[[Args], dict[int, int]]
    """By the position of the operand: bytes for each of its elements, 0 if none is read."""


def _by_mask(operator: str) -> Enough:
    return Enough(operator, lambda _: {1: _MASK})


def _by_shape(operator: str) -> Enough:
    return Enough(operator, lambda _: {1: 0})


def _of_convolution(args: Args) -> dict[int, int]:
    needs_weight = args[10][1]
    return {} if needs_weight else {1: 0}


def _of_batch_norm(args: Args) -> dict[int, int]:
    by_batch, needs_weight = args[7], args[9][1]
    return {} if by_batch or needs_weight else {1: 0}


_max_pool: Final = Enough("max pooling", lambda args: {1: 0, len(args) - 1: _INDEX})

ENOUGH: Final[dict[Any, Enough]] = {
    aten.convolution_backward: Enough("convolution", _of_convolution),
    aten.native_batch_norm_backward: Enough("BatchNorm", _of_batch_norm),
    aten.threshold_backward: _by_mask("ReLU"),
    aten.hardtanh_backward: _by_mask("ReLU6 or Hardtanh"),
    aten.max_pool2d_with_indices_backward: _max_pool,
    aten.avg_pool2d_backward: _by_shape("average pooling"),
    aten._adaptive_avg_pool2d_backward: _by_shape("average pooling"),  # noqa: SLF001
}
"""By operator of the backward pass; of others all operands are needed."""


class Use(NamedTuple):
    """A tensor in the place of which an operator would do with less."""

    module: str
    operator: str
    enough_bytes: int


class Spare(NamedTuple):
    """A storage that is kept for operators of the backward pass that need less than it."""

    last: int
    """After how many events of the memory's log the forward pass has used it last."""
    freed: int
    """After how many it is freed."""
    bytes: int
    uses: tuple[Use, ...]

    @property
    def spared_bytes(self) -> int:
        """How much less is enough."""
        return self.bytes - sum(use.enough_bytes for use in self.uses)


def attainable(log: Sequence[ByteSite], spares: Sequence[Spare], *, start: int) -> int:
    """Return the peak of a step, from the `start`th event on, that keeps of spares what is enough.

    A spare is freed once the forward pass has used it last.
    """
    less: Counter[int] = Counter()
    for spare in spares:
        if spare.spared_bytes > 0:
            less[spare.last + 1] -= spare.spared_bytes
            less[spare.freed] += spare.spared_bytes
    changes = (event.bytes + less[at] for at, event in enumerate(log, 1))
    return max([*itertools.accumulate(changes, initial=0)][start:])
