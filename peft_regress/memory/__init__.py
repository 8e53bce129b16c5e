"""Keep no more for the backward pass than the gradients need. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Keeps(StrEnum):
    """What a packed module keeps for the backward pass, beside parameters and buffers."""

    NOTHING = "nothing"
    MASK = "a mask, 1 byte for each element"
    INDICES = "indices, 4 bytes for each element of the output"


class Reason(StrEnum):
    """Why a module keeps what torch's operator saves."""

    TRAINS = "a parameter of its own trains"
    NEEDS_VALUES = "its gradient needs the values of its input or output"
    BATCH_STATISTICS = "it normalizes by the statistics of the batch"
    KEEPS_NO_MORE = "it keeps nothing, or what a gradient needs too"
    NO_LOWER_PEAK = "the peak is no lower with less"
    NOT_MEASURED = "a mask may take more than it saves: give a batch"
    OWN_FORWARD = "its class or its forward is not torch's own"


@dataclass(frozen=True)
class Lean:
    """What `lean` did to a model; modules by their names in `named_modules`."""

    packed: Mapping[str, Keeps]
    left: Mapping[str, Reason]
    freed_bytes: Mapping[str, int]
    """What a forward pass keeps less, by the packed module that kept it first."""
    plain_peak_bytes: int | None
    """The most bytes at one moment of a training step before; None without a batch."""
    peak_bytes: int | None
    """The same now."""
    model: nn.Module = field(repr=False)

    def undo(self) -> None:
        """Let all modules of the model keep what torch's operators save."""
        from peft_regress.memory.packing import set_packings

        set_packings(self.model, {})


def lean(
    model: nn.Module, batch: Any = None, *, loss: Callable[[nn.Module, Any], Tensor] | None = None
) -> Lean:
    """Make an adapted model keep less between the forward and the backward pass.

    Autograd keeps the inputs of frozen convolutions, of BatchNorm in eval mode, of ReLU6 and of
    pooling, though no gradient of a trained parameter needs their values. Hooks of autograd around
    such modules keep less; the kernels of both passes stay torch's. Outputs are the same bit for
    bit, gradients within rounding. Call it on the model as it trains: adapted, in its mode.

    >>> from torch import nn
    >>> from peft_regress import lean
    >>> from peft_regress.cost import RandomTensor
    >>> frozen = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3))
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), frozen.eval().requires_grad_(False))
    >>> leaner = lean(model, RandomTensor((2, 3, 32, 32)))
    >>> {name: keeps.name for name, keeps in leaner.packed.items()}
    {'1.0': 'NOTHING', '1.1': 'MASK', '1.2': 'NOTHING'}
    >>> leaner.plain_peak_bytes, leaner.peak_bytes
    (310328, 267128)
    >>> leaner.undo()

    Names, `state_dict`, classes, hooks and merging stay as they are. A copy of the model is lean
    too, a pickled model is not. All is kept as before whenever a weight of the module trains,
    BatchNorm is in train mode, tensors are not on a CPU, or `torch.func` or a compiler is at work.

    Args:
        model: any module. Operators that its code calls as functions are not seen.
        batch: what `loss` gets, or the shapes of it (`peft_regress.cost.RandomTensor`). With it,
            what each module keeps and the peak of a training step are measured on fake tensors,
            and nothing is packed unless that lowers the peak. Without it, nothing is measured.
        loss: as for `peft_regress.cost.training_cost`.

    Raises with a batch what `peft_regress.cost.training_cost` raises.
    """
    from peft_regress.memory.packing import choose_and_pack

    return choose_and_pack(model, batch, loss)
