"""What a method must provide, what most share, and names in a wrapped model. No torch at import."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from peft_regress.cases import Json
from peft_regress.errors import InputError
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

BaseDtype = Literal["float32", "bfloat16", "float64"]
Shapes = dict[str, tuple[int, ...]]
"""By parameter name."""

# eps is 1e-6 (GaLore's default), not torch's 1e-8. With 1e-8, gradients that are only rounding
# errors become full steps, and full fine-tuning of shufflenet_v2_x0_5 differed by 2e-4 at the
# fourth loss on another processor; with 1e-6, by less than 1e-6. No weight decay: it would change a
# parameter that gets no gradient, and hide the defect.
ADAMW: Final[dict[str, Any]] = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
ADAMW_SETTINGS: Final[dict[str, Json]] = {"optimizer": "AdamW", **ADAMW, "betas": [0.9, 0.999]}

PEFT_PREFIX: Final = "base_model.model."
"""What peft puts before the names of the model that it wraps."""
_COPIES = re.compile(r"\.(?:original_module|modules_to_save\.[^.]+)\.")

# Not the seed of a case's first round: what must be shipped must not come from the seed.
_LOADING_SEED: Final = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fine-tune a model, which measuring takes: what it wraps, trains and ships.

    A registered method has neither rank nor heads, until `at` gives it both. As it stands it trains
    the model itself, which leaves nothing to switch off or to merge.
    """

    name: str
    """The name in a case id, or of the class of a configuration."""
    learning_rate: float
    """The peak of the cosine schedule in `finetune`, the same on every base.

    DoRA has LoRA's. One rate per method is a compromise between architectures: the rates shall give
    stable measurements in a brief training, not the best accuracy.
    """
    rank: int | None = None
    heads: tuple[str, ...] = ()
    """The qualified names of modules that train in full and are never adapted, such as the last
    layer. A head may hold several layers."""
    moving: frozenset[str] = frozenset()
    """The buffers of the base that training moves and its library does not ship."""
    ranks: tuple[int, ...] = ()
    """The ranks in a matrix; empty if the method has no rank."""
    matrices: tuple[str, ...] = ("default",)
    """The matrices that it belongs to, such as `default` and `extended`."""
    base_dtype: BaseDtype = "float32"
    """The floating-point type of the base model and the images, cast before `adapt`."""
    trains_batch_norm_statistics: bool = False
    """Whether BatchNorm layers run in train mode and estimate their statistics again."""
    trains_with_dropout: bool = False
    """Whether dropout is active in training steps: the model's own, and the adapter's."""
    is_lean: bool = False
    """Whether `peft_regress.lean` lets the adapted model keep less for the backward pass."""
    prunes: Collection[str] = ()
    """Parts of the names of parameters that the method itself may set to or leave at zero."""
    scales: Collection[str] = ()
    """Parts of the names of adapter parameters that scale or replace the base's values.

    They start far from zero and from a random number.
    """
    float32_numerics: Numerics = "usual"
    """The numerics on a float32 base; on bfloat16 its rounding decides."""
    starts_elsewhere: str = ""
    """Why the adapted, untrained model need not compute the base's output; '' if it must."""
    adds_to_loss: bool = False
    """Whether its library adds a penalty to the loss that the model returns."""
    loads_for_use_only: str = ""
    """Why its library does not load it to train on; '' if it does."""
    adapter_in_float32: bool = True
    """Whether its library promises adapter parameters in float32."""
    grows_with_rank: bool = True
    """Whether it trains more parameters at a higher rank, always."""

    _file: ClassVar[str] = "model.safetensors"

    def at(self, rank: int | None = None, *, heads: tuple[str, ...] = ()) -> Self:
        """Return the method at a rank, with the heads that train beside it."""
        return replace(self, rank=rank, heads=heads)

    def doubled(self) -> Self | None:
        """Return the same method at twice the rank; None if it has no rank."""
        return None if self.rank is None else replace(self, rank=2 * self.rank)

    def set_mode(self, model: nn.Module) -> None:
        """Put a model in the mode that it trains in: eval mode, but for BatchNorm and dropout."""
        from torch.nn.modules.batchnorm import _BatchNorm
        from torch.nn.modules.dropout import _DropoutNd

        model.eval()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train(self.trains_batch_norm_statistics)
            elif isinstance(module, _DropoutNd):
                module.train(self.trains_with_dropout)

    @property
    def dtype(self) -> torch.dtype | None:
        """What the base model and its batches are cast to; None keeps their type."""
        import torch  # listing names must not cost the import

        return None if self.base_dtype == "float32" else getattr(torch, self.base_dtype)

    @property
    def numerics(self) -> Numerics:
        """How far rounding spreads in the first losses."""
        return self.float32_numerics if self.base_dtype == "float32" else "bfloat16"

    @property
    def alters_base(self) -> bool:
        """Whether wrapping, or adding another adapter, changes the base's weights."""
        return False

    @property
    def keeps_base(self) -> bool:
        """Whether the model is the base with the adapter off."""
        return not self.alters_base

    @property
    def has_own_optimizer(self) -> bool:
        """Whether `make_optimizer` is a part of the method, so that no other may replace it."""
        return False

    def hyperparameters(self) -> dict[str, Json]:
        """Return all settings (learning rate, alpha, betas ...), for the definition."""
        # Nothing for float32, the first type that there was.
        base = {} if self.base_dtype == "float32" else {"base_dtype": self.base_dtype}
        return {**ADAMW_SETTINGS, "learning_rate": self.learning_rate, **base}

    def definition(self) -> Json:
        """Return what its author set, as it defines a case of one's own."""
        return self.described()

    def described(self) -> dict[str, Json]:
        """Return the same by name, for people; a number is named at its default, too."""
        return {"method": self.name, **self.hyperparameters()}

    @abstractmethod
    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Wrap the model and set what trains; the base must not be used afterwards.

        Raises `UnsupportedCaseError` if no module is eligible, `InputError` for wrong use and a
        head that does not exist, and passes on what a library raises. The caller has set the seed
        of the global generators.
        """

    def expected_trainable(self, base: nn.Module) -> Shapes | None:  # noqa: ARG002
        """Return name and shape of what must train; None where the reference judges it.

        They follow from the unadapted model by the method's rule, without the library that wraps
        it, so they can check the library. Names are those of the adapted model.
        """
        return None

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        """Return the names of its parameters that train, without those of heads and copies."""
        starts = tuple(f"{head}." for head in self.heads)
        return [
            name
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
            and ".modules_to_save." not in name
            and not name.removeprefix(PEFT_PREFIX).startswith(starts)
        ]

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW over what trains, one tensor at a time so that its work can be counted."""
        import torch  # listing names must not cost the import

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            trained, lr=self.learning_rate, foreach=False, fused=False, **ADAMW
        )

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return the projections that an optimizer has and must renew, by name; no copies."""
        return {}

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the source model, by name; no copies."""
        trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        return {**trained, **moved_buffers(model, self.moving)}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder, as the method's library does."""
        save_tensors(self.shipped_tensors(model), folder / self._file)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote, as the method's library does.

        With `trainable` the result can be trained further, otherwise nothing in it trains. May
        change `base` in place. Raises `InputError` if the tensors are not exactly the shipped ones.
        """
        model = self.adapt(base, seed=_LOADING_SEED)
        load_tensors(self.shipped_tensors(model), folder / self._file)
        return model if trainable else model.requires_grad_(requires_grad=False)

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:  # noqa: ARG002
        """Return a context in which the adapter is off; None if there is no adapter."""
        return None

    def merge(self, model: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """Fold the adapter into a copy of the base model; None if there is no adapter."""
        return None


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


def base_prefix(adapted: nn.Module, base: nn.Module) -> str:
    """Return the shortest prefix that fits all the base's children; '' if they are not found."""
    children = [name for name, _ in base.named_children()]
    if not children:
        is_wrapped = any(name == PEFT_PREFIX[:-1] for name, _ in adapted.named_modules())
        return PEFT_PREFIX if is_wrapped else ""
    names: set[str] = {name for name, _ in adapted.named_modules()}
    last = children[0]
    firsts = (name.removesuffix(last) for name in names if f".{name}".endswith(f".{last}"))
    for prefix in sorted(firsts, key=len):
        if all(f"{prefix}{child}" in names for child in children):
            return prefix
    return ""


def base_name(name: str, prefix: str) -> str:
    """Return the base's name of a parameter or buffer, if it is one of the base's."""
    plain = name.removeprefix(prefix).replace(".base_layer.", ".")
    return _COPIES.sub(".", plain)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a tied weight by its first name alone."""
    found: dict[Any, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        found.setdefault(place, (name, tensor))
    return dict(found.values())


def moved_buffers(model: nn.Module, moving: Collection[str]) -> dict[str, Tensor]:
    """Return the buffers that training moves, such as running statistics, by name.

    moving: their names in the base. A library may put something before a name; copies that it keeps
    of whole modules it saves itself.
    """
    ends = tuple(f".{name}" for name in moving)
    return {
        name.removeprefix(PEFT_PREFIX): tensor
        for name, tensor in model.named_buffers()
        if ".modules_to_save." not in name and f".{base_name(name, '')}".endswith(ends)
    }
