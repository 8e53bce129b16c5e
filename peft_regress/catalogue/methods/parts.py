"""What the built-in methods share: usual properties, the head, AdamW, loading by exact names.

No torch at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress.errors import InputError, UnsupportedCaseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.cases import Json
    from peft_regress.catalogue.methods.protocol import BaseDtype

# eps is 1e-6 (GaLore's default), not torch's 1e-8. With 1e-8, gradients that are only rounding
# errors become full steps, and full fine-tuning of shufflenet_v2_x0_5 differed by 2e-4 at the
# fourth loss on another processor; with 1e-6, by less than 1e-6. No weight decay: it would change a
# parameter that gets no gradient, and hide the defect.
ADAMW_SETTINGS: Final[dict[str, Json]] = {
    "optimizer": "AdamW",
    "betas": [0.9, 0.999],
    "eps": 1e-6,
    "weight_decay": 0.0,
}

MODEL_FILE: Final = "model.safetensors"
"""The file that a method without a library ships."""


@dataclass(frozen=True, kw_only=True)
class MethodProperties:
    """The properties of a `Method`, with their usual values."""

    name: str
    ranks: tuple[int, ...] = ()
    matrices: tuple[str, ...] = ("default",)
    base_dtype: BaseDtype = "float32"
    trains_batch_norm_statistics: bool = False
    prunes: tuple[str, ...] = ()
    alters_base: bool = False
    scales: tuple[str, ...] = ()

    def projections(
        self,
        optimizer: Optimizer,  # noqa: ARG002  (protocol)
    ) -> Mapping[str, Tensor]:
        """Return nothing: the optimizer uses gradients unprojected."""
        return {}

    def base_settings(self) -> dict[str, Json]:
        """Return the type of the base for a definition; nothing for float32, the first type."""
        return {} if self.base_dtype == "float32" else {"base_dtype": self.base_dtype}


def cast_base(model: nn.Module, dtype: BaseDtype) -> nn.Module:
    """Cast parameters and floating-point buffers in place."""
    import torch  # listing names must not cost the import

    return model.to(getattr(torch, dtype))


def find_head(model: nn.Module, head: str) -> nn.Module:
    """Return the last layer by its qualified name. Raises `UnsupportedCaseError`."""
    try:
        return model.get_submodule(head)
    except AttributeError:
        msg = f"{type(model).__name__} has no module {head!r} to train as its head"
        raise UnsupportedCaseError(msg) from None


def no_targets(method: str, model: nn.Module, *, targets: str, head: str) -> UnsupportedCaseError:
    """Return the error for a model that has none of a method's targets."""
    owner = type(model).__name__
    return UnsupportedCaseError(
        f"{method}: {owner} has none of its targets, {targets} (the head is {head!r})"
    )


def train_only(model: nn.Module, module: nn.Module) -> None:
    """Freeze the whole model except one of its modules."""
    model.requires_grad_(requires_grad=False)
    module.requires_grad_(requires_grad=True)


def set_batch_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Set how fast the running statistics of every BatchNorm follow the batches."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum


def make_adamw(model: nn.Module, *, learning_rate: float) -> Optimizer:
    """Return AdamW over what trains, one tensor at a time so that its work can be counted."""
    import torch  # listing names must not cost the import

    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=learning_rate,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.0,
        foreach=False,
        fused=False,
    )


def check_names(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless the names of shipped and expected tensors are equal."""
    absent, surplus = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if absent or surplus:
        msg = (
            "these shipped tensors belong to another model: "
            f"{len(absent)} absent {absent[:3]}, {len(surplus)} unknown {surplus[:3]}"
        )
        raise InputError(msg)


def copy_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors in place with those of the same names and shapes. Raises `InputError`."""
    import torch

    check_names(tensors, targets)
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                msg = f"{name} is {tuple(target.shape)}, shipped is {tuple(tensors[name].shape)}"
                raise InputError(msg)
            target.copy_(tensors[name])


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(targets: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite tensors in place with those of a safetensors file. Raises `InputError`."""
    from safetensors.torch import load_file

    copy_into(targets, load_file(path))
