"""Compute in float64, whatever precision code asks for.

What is built under a default dtype of float64 has it, and code that asks for float32 by name gets
float64. A number of less precision that remains would bring the processor's rounding back.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

_LESS: Final = frozenset({torch.float32, torch.float16, torch.bfloat16})


class LessPrecisionError(Exception):
    """Why a training cannot be had in float64."""


class Raising(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes of each float32 that is asked for float64, and notes the first that remains."""

    left = ""
    """The operator and its dtype; empty if there is none."""
    watches = False
    """Whether something is computed now, or only read."""

    def watching(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, and watch what is computed meanwhile, not how the batches are made."""
        for batch in batches:
            self.watches = True
            yield batch
            self.watches = False

    def raise_weights(self, model: nn.Module) -> None:
        """Convert the weights of a model that was loaded in float32, and watch its operators."""
        dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
        if dtypes <= {torch.float32, torch.float64}:
            model.double()
        self.watches = True
        if _get_current_dispatch_mode() is not self:
            self.left = "it trains in a thread of its own"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: _raised(one) for name, one in (kwargs or {}).items()}
        found = func(*map(_raised, args), **kwargs)
        if func is torch.ops.aten.lift_fresh.default:  # of torch.tensor(), or NumPy
            found = found.double() if found.dtype is torch.float32 else found
        elif func is torch.ops.aten._linalg_svd.default:  # noqa: SLF001
            found = _with_signs(found)
        if self.watches and not self.left:
            if torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
                self.left = "it computes under autocast"
            for one in (found,) if isinstance(found, Tensor) else tree_leaves(found):
                if isinstance(one, Tensor) and one.dtype in _LESS:
                    self.left = f"{func} stays {one.dtype}".replace("torch.", "")
        return found


@contextlib.contextmanager
def float64() -> Iterator[Raising]:
    """Compute in float64. Raises `LessPrecisionError` for a training with less."""
    before = torch.get_default_dtype()
    mode = Raising()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    torch.set_default_dtype(torch.float64)
    try:
        with mode:
            yield mode
    finally:
        torch.set_default_dtype(before)
    if mode.left:
        raise LessPrecisionError(mode.left)


def _raised(asked: Any) -> Any:
    return torch.float64 if asked is torch.float32 else asked


def _with_signs(found: Any) -> Any:
    """Return an SVD in which the largest number of each left vector is positive.

    Its sign is free, and each library chooses it by its own order of operations. GaLore keeps
    moments along these vectors when it takes new ones, so the sign goes into its training.
    """
    left, values, right = found
    count = values.shape[-1]
    if not left.numel():
        return found
    signs = left.gather(-2, left.abs().argmax(-2, keepdim=True)).sign()[..., :count]
    left[..., :count] *= signs
    right[..., :count, :] *= signs.mT
    return left, values, right
