"""What the built-in methods share: usual properties, the head, AdamW, loading by exact names.

No torch at import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.cases import Json
from peft_regress.errors import InputError, UnsupportedCaseError
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

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
    float32_numerics: Numerics = "usual"
    """The numerics on a float32 base; on bfloat16 its rounding decides."""

    @property
    def numerics(self) -> Numerics:
        """Return how far rounding spreads in the first losses."""
        return self.float32_numerics if self.base_dtype == "float32" else "bfloat16"

    @property
    def has_own_optimizer(self) -> bool:
        """Return False: any optimizer over what trains will do."""
        return False

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


def find_heads(model: nn.Module, heads: tuple[str, ...]) -> list[nn.Module]:
    """Return the heads by their qualified names. Raises `UnsupportedCaseError`."""
    found = []
    for head in heads:
        try:
            found.append(model.get_submodule(head))
        except AttributeError:
            raise UnsupportedCaseError(
                f"{type(model).__name__} has no module {head!r} to train as its head"
            ) from None
    return found


def head_parameters(model: nn.Module, heads: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Return all parameters of the heads, under the model's names and in its order.

    By identity: a parameter that a head shares has the name of its first place, as it has in
    `named_parameters`. Raises `UnsupportedCaseError` if the model has no such module.
    """
    of_heads = {id(p) for head in find_heads(model, heads) for p in head.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in of_heads}


def no_targets(
    method: str, model: nn.Module, *, targets: str, heads: tuple[str, ...]
) -> UnsupportedCaseError:
    """Return the error for a model that has none of a method's targets."""
    owner = type(model).__name__
    named = ", ".join(map(repr, heads)) or "none"
    return UnsupportedCaseError(
        f"{method}: {owner} has none of its targets, {targets} (head: {named})"
    )


def train_only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Freeze the whole model except some of its parameters."""
    model.requires_grad_(requires_grad=False)
    for parameter in parameters:
        parameter.requires_grad = True


def set_batch_norm_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set how fast the running statistics of every BatchNorm follow the batches; None: averages."""
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
        raise InputError(
            "these shipped tensors belong to another model: "
            f"{len(absent)} absent {absent[:3]}, {len(surplus)} unknown {surplus[:3]}"
        )


def copy_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors in place with those of the same names and shapes. Raises `InputError`."""
    import torch

    check_names(tensors, targets)
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                raise InputError(
                    f"{name} is {tuple(target.shape)}, shipped is {tuple(tensors[name].shape)}"
                )
            target.copy_(tensors[name])


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(targets: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite tensors in place with those of a safetensors file. Raises `InputError`."""
    from safetensors.torch import load_file

    copy_into(targets, load_file(path))
