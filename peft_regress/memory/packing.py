"""Let modules keep less for the backward pass, with torch's own kernels in both passes.

While a module computes, autograd's hooks pack each tensor that its operator saves, and unpack it
for the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from peft_regress.cost.module_trail import module_names
from peft_regress.cost.pricing import adamw, loss_of_output
from peft_regress.cost.profile import LossOf, record_training_step
from peft_regress.cost.stand_ins import on_fake_or_real
from peft_regress.cost.step_cost import StepLog
from peft_regress.cost.storages import has_parts
from peft_regress.memory import Keeps, Lean, Reason

Unpack: TypeAlias = Callable[[], Tensor]
Pack: TypeAlias = Callable[[Any, int, Tensor], Unpack | None]
"""(module, address of its input, saved tensor) -> what makes one in its place; None keeps it."""


def _address(tensor: Tensor) -> Any:
    # Fake tensors have no data pointer.
    return tensor.untyped_storage()._cdata  # noqa: SLF001


def _pack_input(_layer: nn.Module, x: int, saved: Tensor) -> Unpack | None:
    """Keep the input's shape, of which the kernel reads no values."""
    if _address(saved) != x:
        return None
    is_last = not saved.is_contiguous() and saved.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    # Never written to: on a CPU its pages take no memory.
    return partial(torch.empty, saved.shape, dtype=saved.dtype, memory_format=layout)


def _pack_indices(layer: nn.Module, x: int, saved: Tensor) -> Unpack | None:
    return saved.int().long if saved.dtype is torch.int64 else _pack_input(layer, x, saved)


def _pack_relu(_layer: nn.ReLU, _x: int, saved: Tensor) -> Unpack:
    return partial((saved <= 0).logical_not_().to, saved.dtype)


def _pack_hardtanh(layer: nn.Hardtanh, _x: int, saved: Tensor) -> Unpack:
    low, high, dtype = layer.min_val, layer.max_val, saved.dtype
    is_inside = (saved > low).logical_and_(saved < high)
    # The middle of the bounds, or the lower one.
    return lambda: is_inside.to(dtype).mul_((high - low) / 2).add_(low)


def _pack_dropout(layer: nn.Dropout, _x: int, saved: Tensor) -> Unpack:
    # Each number is 0 or 1 / (1 - p), computed so.
    is_kept, dtype, share = saved != 0, saved.dtype, 1 - layer.p
    return lambda: is_kept.to(dtype).div_(share)


@dataclass(frozen=True)
class Packing:
    """What modules of some classes can keep in the place of what their operators save."""

    of: tuple[type[nn.Module], ...]
    """The classes; not those made of them, which may compute something else."""
    keeps: Keeps
    pack: Pack
    is_never_worse: bool = True
    """Whether it keeps no more than torch does, whatever other operators keep."""

    def refusal(self, layer: Any) -> Reason | None:
        """Return why a module, as it is set now, keeps what torch's operator saves."""
        weight = getattr(layer, "weight", None)
        if weight is not None and weight.requires_grad:
            return Reason.TRAINS
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            return Reason.BATCH_STATISTICS
        if isinstance(layer, nn.Dropout) and not (layer.training and 0 < layer.p < 1):
            return Reason.KEEPS_NO_MORE
        return None

    def packs(self, layer: nn.Module, x: Any) -> bool:
        """Return whether what a call saves can be packed."""
        return (
            isinstance(x, Tensor)
            and self.refusal(layer) is None
            and x.device.type == "cpu"  # on no other was it compared
            and x.layout is torch.strided
            and not has_parts(type(x))
            and x.numel() <= torch.iinfo(torch.int32).max  # of indices
            # Under torch.func hooks raise, and tensors have no storage.
            and torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]  # noqa: SLF001
            and not torch.compiler.is_compiling()
        )


_NORMS_AND_CONVOLUTIONS: Final = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_PACKINGS: Final = (
    Packing(_NORMS_AND_CONVOLUTIONS, Keeps.NOTHING, _pack_input),
    Packing((nn.AvgPool2d, nn.AdaptiveAvgPool2d), Keeps.NOTHING, _pack_input),
    Packing((nn.MaxPool2d,), Keeps.INDICES, _pack_indices),
    Packing((nn.ReLU6, nn.Hardtanh), Keeps.MASK, _pack_hardtanh),
    Packing((nn.ReLU,), Keeps.MASK, _pack_relu, is_never_worse=False),
    Packing((nn.Dropout,), Keeps.MASK, _pack_dropout),
)
PACKINGS: Final = {kind: packing for packing in _PACKINGS for kind in packing.of}

_NEED_VALUES: Final = (
    *(nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Softmax, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)
"""Modules that keep their input or output, and whose gradient needs it."""


def is_lean(model: nn.Module) -> bool:
    """Return whether a module of the model packs."""
    return any(hasattr(vars(one).get("forward"), "packing") for one in model.modules())


def set_packings(model: nn.Module, packings: dict[str, Packing]) -> None:
    """Let modules pack, by their names, and all others of the model keep what torch saves."""
    for name, layer in model.named_modules():
        if hasattr(vars(layer).get("forward"), "packing"):
            del vars(layer)["forward"]
        if name in packings:
            # An attribute is copied with the module, whose class others ask for.
            vars(layer)["forward"] = MethodType(_forward_by(packings[name]), layer)


def _forward_by(packing: Packing) -> Callable[..., Any]:
    # Of this name pickle finds the method of the class.
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = MethodType(type(self).forward, self)
        if kwargs or len(args) != 1 or not packing.packs(self, args[0]):
            return plain(*args, **kwargs)
        pack = partial(_pack, packing, self, _address(args[0]))
        with saved_tensors_hooks(pack, lambda unpack: unpack()):
            return plain(*args)

    # By it `set_packings` knows its own.
    forward.packing = packing  # type: ignore[attr-defined]
    return forward


# Autograd holds the hook as long as what it packs, so that it must not hold the input.
def _pack(packing: Packing, layer: nn.Module, x: int, saved: Tensor) -> Unpack:
    return packing.pack(layer, x, saved) or partial(_unchanged, saved, saved._version)  # noqa: SLF001


def _unchanged(saved: Tensor, version: int) -> Tensor:
    """Return a tensor that is kept as it is: torch compares versions only without hooks."""
    if saved._version != version:  # noqa: SLF001
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an "
            f"inplace operation: a tensor of shape {list(saved.shape)}"
        )
    return saved


def choose_and_pack(model: nn.Module, batch: Any, loss: LossOf | None) -> Lean:
    """Do what `peft_regress.lean` does, and return what it returns."""
    set_packings(model, {})
    packings, left = candidates(model)
    freed, before, after = dict[str, int](), None, None
    if batch is None:
        worse = (name for name, packing in packings.items() if not packing.is_never_worse)
        left |= dict.fromkeys(worse, Reason.NOT_MEASURED)
    else:
        loss = loss or loss_of_output
        record = partial(record_training_step, model, adamw, batch=batch, loss=loss)
        step = on_fake_or_real(record)
        freed = _freed_bytes(model, step, packings)
        left |= dict.fromkeys(packings.keys() - freed.keys(), Reason.KEEPS_NO_MORE)
        set_packings(model, {name: packings[name] for name in freed})
        before, after = step.cost().peak_bytes, on_fake_or_real(record).cost().peak_bytes
        if after >= before:
            after = before
            left |= dict.fromkeys(freed, Reason.NO_LOWER_PEAK)
    chosen = {name: packing for name, packing in packings.items() if name not in left}
    set_packings(model, chosen)
    return Lean(
        packed={name: packing.keeps for name, packing in chosen.items()},
        left=left,
        freed_bytes={name: freed[name] for name in chosen if name in freed},
        plain_peak_bytes=before,
        peak_bytes=after,
        model=model,
    )


def candidates(model: nn.Module) -> tuple[dict[str, Packing], dict[str, Reason]]:
    """Return how each module can keep less, and why others can not."""
    packings: dict[str, Packing] = {}
    left: dict[str, Reason] = {}
    for name, layer in model.named_modules():
        packing = PACKINGS.get(type(layer))
        if packing is not None and "forward" not in vars(layer):
            refusal = packing.refusal(layer)
            if refusal is None:
                packings[name] = packing
            else:
                left[name] = refusal
        elif isinstance(layer, (*PACKINGS,)):
            left[name] = Reason.OWN_FORWARD
        elif isinstance(layer, _NEED_VALUES):
            left[name] = Reason.NEEDS_VALUES
    return packings, left


def _freed_bytes(model: nn.Module, step: StepLog, packings: dict[str, Packing]) -> dict[str, int]:
    """Return how much less modules keep in a step, by those that need not keep what they do."""
    in_trail = module_names(model)
    names = {in_trail[layer]: name for name, layer in model.named_modules()}
    # No other operator gets dropout's noise, which the ledger does not know.
    freed = {name: 0 for name, one in packings.items() if one.pack is _pack_dropout}
    for spare in step.spares_of_second:
        users = [names[use.module] for use in spare.uses]
        if all(user in packings for user in users):
            freed |= {user: freed.get(user, 0) for user in users}
            freed[users[-1]] += spare.spared_bytes
    return freed
