"""What a fine-tuning method must provide, and what most of them share. No torch at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from peft_regress.cases import Json
from peft_regress.errors import InputError
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


BaseDtype = Literal["float32", "bfloat16"]
Heads = tuple[str, ...]
"""The qualified names of modules that train in full, such as the last layer."""
Shapes = dict[str, tuple[int, ...]]
"""By parameter name."""

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

_MODEL_FILE: Final = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fine-tune a model: what it wraps, trains and ships.

    As it stands it trains the model itself, which leaves nothing to switch off or to merge. A
    method of another package need not derive from it, only have all its attributes.
    """

    name: str
    """The name in a case id."""
    learning_rate: float
    """The peak of the cosine schedule in `finetune`, the same on every base.

    `tools/studies/task_study.py --rates` found the rates; DoRA has LoRA's. One rate per
    method is a compromise between architectures: the rates shall give stable measurements, not the
    best accuracy.
    """
    ranks: tuple[int, ...] = ()
    """The ranks in a matrix; empty if the method has no rank."""
    matrices: tuple[str, ...] = ("default",)
    """The matrices that it belongs to, such as `default` and `extended`."""
    base_dtype: BaseDtype = "float32"
    """The floating-point type of the base model and the images, cast before `adapt`."""
    trains_batch_norm_statistics: bool = False
    """Whether BatchNorm layers run in train mode and estimate their statistics again."""
    prunes: tuple[str, ...] = ()
    """Parts of the names of parameters that the method itself may set to or leave at zero."""
    scales: tuple[str, ...] = ()
    """Parts of the names of adapter parameters that scale or replace the base's values.

    They start far from zero and from a random number.
    """
    float32_numerics: Numerics = "usual"
    """The numerics on a float32 base; on bfloat16 its rounding decides."""

    @property
    def numerics(self) -> Numerics:
        """How far rounding spreads in the first losses."""
        return self.float32_numerics if self.base_dtype == "float32" else "bfloat16"

    @property
    def alters_base(self) -> bool:
        """Whether wrapping changes the base's weights, so it differs with the adapter off."""
        return False

    @property
    def has_own_optimizer(self) -> bool:
        """Whether `make_optimizer` is a part of the method, so that no other may replace it."""
        return False

    @abstractmethod
    def hyperparameters(self, rank: int | None) -> dict[str, Json]:
        """Return all settings (learning rate, alpha, betas ...), for the definition."""

    def base_settings(self) -> dict[str, Json]:
        """Return the type of the base for a definition; nothing for float32, the first type."""
        return {} if self.base_dtype == "float32" else {"base_dtype": self.base_dtype}

    @abstractmethod
    def adapt(self, model: nn.Module, *, heads: Heads, rank: int | None, seed: int) -> nn.Module:
        """Wrap the model and set what trains; `heads` train in full and are never adapted.

        A head may hold several layers, and there may be none. Raises `UnsupportedCaseError` if no
        module is eligible or a head does not exist, and passes on the library's own ValueError and
        NotImplementedError. Uses only generators seeded with `seed`. May change the given model in
        place; do not use that model afterwards.
        """

    @abstractmethod
    def expected_trainable(self, base: nn.Module, *, heads: Heads, rank: int | None) -> Shapes:
        """Return name and shape of each parameter that must train after `base` is adapted.

        They follow from the unadapted model by the method's rule, without the library that wraps
        it, so they can check the library. Names are those of the adapted model.
        """

    def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Optimizer:  # noqa: ARG002
        """Return the optimizer over the trainable parameters, `foreach=False`."""
        return self.adamw(model)

    def adamw(self, model: nn.Module) -> Optimizer:
        """Return AdamW over what trains, one tensor at a time so that its work can be counted."""
        import torch  # listing names must not cost the import

        return torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-6,
            weight_decay=0.0,
            foreach=False,
            fused=False,
        )

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return the optimizer's projections of gradients, which it must renew, by name.

        No copies; empty if the optimizer has none.
        """
        return {}

    @abstractmethod
    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the source model, by name; no copies."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder, as the method's library does."""
        save_tensors(self.shipped_tensors(model), folder / _MODEL_FILE)

    def load(self, base: nn.Module, folder: Path, *, heads: Heads, trainable: bool) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote, as the method's library does.

        With `trainable` the result can be trained further, otherwise nothing in it trains. May
        change `base` in place. Raises `InputError` if the tensors are not exactly the shipped ones.
        """
        model = self.adapt(base, heads=heads, rank=None, seed=0)
        load_tensors(self.shipped_tensors(model), folder / _MODEL_FILE)
        return model if trainable else model.requires_grad_(requires_grad=False)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:  # noqa: ARG002
        """Return a context in which the adapter is off; None if there is no adapter."""
        return None

    def merge(self, model: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """Fold the adapter into a copy of the base model; None if there is no adapter."""
        return None


def cast_base(model: nn.Module, dtype: BaseDtype) -> nn.Module:
    """Cast parameters and floating-point buffers in place."""
    import torch  # listing names must not cost the import

    return model.to(getattr(torch, dtype))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(targets: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite tensors in place with those of a safetensors file, of the same names and shapes."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    check_names(tensors, targets)
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                raise InputError(
                    f"{name} is {tuple(target.shape)}, shipped is {tuple(tensors[name].shape)}"
                )
            target.copy_(tensors[name])


def check_names(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless the names of shipped and expected tensors are equal."""
    absent, surplus = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if absent or surplus:
        raise InputError(
            "these shipped tensors belong to another model: "
            f"{len(absent)} absent {absent[:3]}, {len(surplus)} unknown {surplus[:3]}"
        )
