"""Replace operators that keep more for the backward pass than gradients need.

Imports no torch, like all that `peft_regress` exports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Reason(StrEnum):
    """Why a module keeps what it kept."""

    TRAINS = "a parameter of its own trains"
    NEEDS_VALUES = "its gradient needs the values of its input or output"
    BATCH_STATISTICS = "it normalizes by the statistics of the batch"
    KEPT_ANYWAY = "another operator keeps the same tensor, or it keeps none"
    NO_LOWER_PEAK = "the peak is not lower with it replaced"
    UNKNOWN_USE = "whether a mask is smaller depends on what follows: give a batch"
    SETTINGS = "no exact replacement is known for its settings"
    OWN_FORWARD = "its forward is not torch's own"


@dataclass(frozen=True)
class Replaced:
    """A module that keeps less now."""

    module: str
    """Its name in `named_modules`."""
    operator: str
    """Its class, such as BatchNorm2d."""
    keeps: str
    """What it still keeps, beside parameters and buffers."""
    freed_bytes: int | None
    """What it kept alive alone, or before others, and frees, in one forward pass; None without a
    batch."""


@dataclass(frozen=True)
class Left:
    """A module that was not replaced."""

    module: str
    operator: str
    reason: Reason


@dataclass(frozen=True)
class Lean:
    """What `lean` did to a model."""

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    plain_peak_bytes: int | None
    """The most bytes at one moment of a training step before; None without a batch."""
    peak_bytes: int | None
    """The same now."""
    _model: nn.Module = field(repr=False)

    def undo(self) -> None:
        """Give the modules of the model their own operators back."""
        from peft_regress.memory.operators import restore

        restore(self._model)


def lean(
    model: nn.Module, batch: Any = None, *, loss: Callable[[nn.Module, Any], Tensor] | None = None
) -> Lean:
    """Make an adapted model keep less between the forward and the backward pass.

    Autograd keeps the inputs of frozen convolutions, of BatchNorm in eval mode, of ReLU6 and of
    pooling, though no gradient of a trained parameter needs their values. Here such modules get
    functions with the same forward kernel that keep nothing, a mask or what is kept anyway. Outputs
    are the same bit for bit, gradients within rounding. Call it on the model as it trains: frozen,
    adapted, and with BatchNorm in its mode.

    >>> from torch import nn
    >>> from peft_regress import lean
    >>> from peft_regress.cost import RandomTensor
    >>> first, frozen = nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6())
    >>> model = nn.Sequential(first, frozen.eval().requires_grad_(False))
    >>> leaner = lean(model, RandomTensor((2, 3, 32, 32)))
    >>> [(one.module, one.keeps) for one in leaner.replaced]
    [('1.0', 'nothing'), ('1.1', 'a mask, a byte an element')]
    >>> leaner.plain_peak_bytes, leaner.peak_bytes
    (258112, 202512)
    >>> leaner.undo()

    Names, `state_dict`, hooks, classes and merging stay as they are, a copy of the model is as lean,
    and a pickled model is plain. Each call decides anew: where a parameter trains, BatchNorm is in
    train mode, or autocast, `torch.func` or a compiler is at work, torch's own operator runs.

    Args:
        model: any module. Operators that its code calls as functions are not seen.
        batch: what `loss` gets, or shapes of it (`peft_regress.cost.RandomTensor`). With it, each
            module's choice, and then the peak of a training step, is measured on fake tensors: what
            does not lower the peak is not replaced. Without it, nothing is measured.
        loss: as for `peft_regress.cost.training_cost`.

    Raises with a batch what `peft_regress.cost.training_cost` raises.
    """
    from peft_regress.memory.choice import choose_and_replace

    return choose_and_replace(model, batch, loss)
