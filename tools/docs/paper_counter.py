"""Count the FLOPs of a step as the figures of arXiv 2507.23536 were counted.

The paper publishes its profiler (github.com/gslama12/pytorch-model-profiler). Its FLOP counter is a
dispatch mode of its own, not torch's `FlopCounterMode`. This module states what it counts and
counts the same, so that the printed figures can be reproduced, not only approximated:

- a convolution: 2 for each multiply-add, and 2 for each output if there is a bias;
- its input gradient: 2 for each multiply-add, and 2 for each element of the gradient;
- its weight gradient: 2 `groups` for each multiply-add, and 2 for each triple of an input channel,
  an input channel of a group and a kernel position;
- mm, (m, n) @ (n, l): 2mnl - ml; addmm: nl more for the bias;
- add and add_: 2 for each element of the first operand; mul and mul_: 1 for each of the result;
- batch norm of n elements in c channels: 6n + 2c, and n for each of weight and bias that trains;
  backward 4n + c, and n + c if the weight trains;
- anything else: nothing, such as activations, pooling, sqrt, addcdiv, lerp, SVD.

The printed figures contain no BatchNorm: the formulas belong to the operator of the CPU. On a GPU
cuDNN's operator has another name and counts nothing. BatchNorm is counted here, and left out of the
figures.

The factor `groups` in the weight gradient is an error that the counter shares with torch's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from peft_regress.cost.stand_ins import with_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

aten = torch.ops.aten

StepPhase = Literal["forward", "backward", "optimizer"]
Piece: TypeAlias = str
"""Work that is counted alike, such as `convolution bias`."""
Arguments: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class PaperCount:
    """The FLOPs of one step by phase and piece of work, and the three figures made of them."""

    pieces: dict[tuple[StepPhase, Piece], int]

    @property
    def forward(self) -> int:
        """What the paper prints as the forward pass: convolutions and linear layers only."""
        pieces = ("convolution", "convolution bias", "addmm")
        return sum(self.pieces.get(("forward", piece), 0) for piece in pieces)

    @property
    def optimizer(self) -> int:
        """Everything counted in `step()`."""
        return sum(flops for (phase, _), flops in self.pieces.items() if phase == "optimizer")

    @property
    def backward(self) -> int:
        """The rest, of the forward pass too: other matrix products, additions and products."""
        counted = sum(self.pieces.values()) - self.piece("batch norm")
        return counted - self.forward - self.optimizer

    def piece(self, piece: Piece, *phases: StepPhase) -> int:
        """Sum one piece of work over the phases; over all phases if none is named."""
        return sum(self.pieces.get((phase, piece), 0) for phase in phases or get_args(StepPhase))


def count_step(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    input_shape: tuple[int, ...],
) -> PaperCount:
    """Count the first step, on fake tensors, with the sum of the outputs as its loss.

    The model stays unchanged. The optimizer must run one kernel per tensor (`foreach=False`).
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    counter = _PaperCounter()
    copied = with_tensors(model, mode.from_tensor)
    with mode, counter:
        optimizer = make_optimizer(copied)
        counter.flops.clear()
        objective = copied(torch.empty(input_shape)).sum()
        counter.phase = "backward"
        objective.backward()
        counter.phase = "optimizer"
        optimizer.step()
    return PaperCount(pieces=dict(counter.flops))


class _PaperCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: StepPhase = "forward"
        self.flops: Counter[tuple[StepPhase, Piece]] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and add its count."""
        out = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func._overloadpacket)  # noqa: SLF001 - its public names are strings
        if count is not None:
            for piece, flops in count(args, out).items():
                self.flops[self.phase, piece] += flops
        return out


def _convolution(args: Arguments, out: Tensor) -> dict[Piece, int]:
    weight, bias = args[1], args[2]
    multiply_adds = out.shape[0] * weight.numel() * prod(out.shape[2:])
    additions = 0 if bias is None else 2 * out.numel()
    return {"convolution": 2 * multiply_adds, "convolution bias": additions}


def _convolution_backward(args: Arguments, out: tuple[Tensor | None, ...]) -> dict[Piece, int]:
    (grad, _, weight), groups = args[:3], args[9]
    multiply_adds = grad.shape[0] * weight.numel() * prod(grad.shape[2:])
    to_input, to_weight = out[:2]
    products = additions = 0
    if to_input is not None:
        products += 2 * multiply_adds
        additions += 2 * to_input.numel()
    if to_weight is not None:
        of_a_group = to_weight.shape[1]
        products += 2 * groups * multiply_adds
        additions += 2 * groups * of_a_group * prod(to_weight.shape[1:])
    return {"convolution gradients": products, "additions in gradients": additions}


def _batch_norm(args: Arguments, _out: object) -> dict[Piece, int]:
    x, weight, bias = args[:3]
    trained = int(weight.requires_grad) + int(bias.requires_grad)
    return {"batch norm": (6 + trained) * x.numel() + 2 * x.shape[1]}


def _batch_norm_backward(args: Arguments, _out: object) -> dict[Piece, int]:
    x, weight = args[1:3]
    trained = int(weight.requires_grad)
    return {"batch norm": (4 + trained) * x.numel() + (1 + trained) * x.shape[1]}


def _matrix_product(first: Tensor, out: Tensor) -> int:
    return (2 * first.shape[1] - 1) * out.numel()


_COUNTS: dict[Any, Callable[[Arguments, Any], dict[Piece, int]]] = {
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten.mm: lambda args, out: {"mm": _matrix_product(args[0], out)},
    aten.addmm: lambda args, out: {
        "addmm": _matrix_product(args[1], out) + args[0].shape[0] * args[1].shape[1]
    },
    **dict.fromkeys((aten.add, aten.add_), lambda args, _: {"add": 2 * args[0].numel()}),
    **dict.fromkeys((aten.mul, aten.mul_), lambda _, out: {"mul": out.numel()}),
    aten.native_batch_norm: _batch_norm,
    aten.native_batch_norm_backward: _batch_norm_backward,
}
