"""What measuring asks of an adapter, and two that answer: a built-in method and a callable."""

# ruff: noqa: D102  (`Adapter` says what each returns)

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress.cases import Json
from peft_regress.catalogue.methods.method import Method, load_tensors, save_tensors
from peft_regress.errors import InputError
from peft_regress.measure.adapters import heads
from peft_regress.measure.training import seed_all
from peft_regress.metrics import Numerics

_FILE: Final = "trained.safetensors"
# Not the seed of a case's first round: what must be shipped must not come from the seed.
_LOADING_SEED: Final = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is known of an adapter before it is put on a model."""

    dtype: torch.dtype | None = None
    """What the base model and its batches are cast to; None keeps their type."""
    numerics: Numerics = "usual"
    """How strongly its training amplifies rounding, which decides the bounds on losses."""
    prunes: Collection[str] = ()
    """Parts of the names of parameters that it may set to or leave at zero."""
    scales: Collection[str] = ()
    """Parts of the names of adapter parameters that scale or replace the base's values."""
    alters_base: bool = False
    """Whether wrapping changes the base's weights."""
    trains_batch_norm_statistics: bool = False
    """Whether the running statistics of BatchNorm layers may move; the loop's mode may, too."""
    starts_elsewhere: str = ""
    """Why the adapted, untrained model need not compute the base's output; '' if it must."""
    loads_for_use_only: str = ""
    """Why its library does not load it to train on; '' if it does."""
    adapter_in_float32: bool = True
    """Whether its library promises adapter parameters in float32."""
    grows_with_rank: bool = True
    """Whether it trains more parameters at a higher rank, always."""


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """An adapter with its settings. As it stands, no rule of its own says what trains."""

    heads: tuple[str, ...] = ()
    """The modules that train beside it in full."""
    moving: frozenset[str] = frozenset()
    """The buffers of the base that training moves and its library does not ship."""

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What is known of it before it is put on a model."""

    def definition(self) -> Json:
        """Return what its author set, as it defines a case."""
        return self.settings()

    @abstractmethod
    def settings(self) -> dict[str, Json]:
        """Return the same by name, for people; a number is named at its default, too."""

    @abstractmethod
    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Wrap the model and set what trains; the base must not be used afterwards.

        The caller has set the seed. Raises `UnsupportedCaseError` if no module is eligible,
        `InputError` for wrong use; passes on what a library raises.
        """

    def expected_trainable(self, base: nn.Module) -> Mapping[str, tuple[int, ...]] | None:  # noqa: ARG002
        """Return name and shape of what must train; None where the reference judges it."""
        return None

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:  # noqa: ARG002
        """Return the names of its parameters, not those of the heads; none if unknown."""
        return []

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW with torch's settings, one tensor at a time so that its work is counted."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise InputError(
                "nothing to train: no parameter of the adapted model requires a gradient"
            )
        return torch.optim.AdamW(trained, foreach=False, fused=False)

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return the optimizer's projections of gradients, by name; no copies."""
        return {}

    @abstractmethod
    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the base model, by name; no copies."""

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder, as the adapter's library does."""

    @abstractmethod
    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote."""

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:  # noqa: ARG002
        """Return a context in which the adapter is off; None if it cannot be switched off."""
        return None

    def merge(self, model: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """Fold the adapter into a copy of the base model; None if it cannot be."""
        return None

    def doubled(self) -> Self | None:
        """Return the same adapter at twice the rank; None if it has no rank."""
        return None


@dataclass(frozen=True, kw_only=True)
class MethodAdapter(Adapter):
    """A built-in method at a rank: it alone states what it sets, wraps and expects."""

    method: Method
    rank: int | None

    @property
    def traits(self) -> Traits:
        method = self.method
        name = method.base_dtype
        return Traits(
            dtype=None if name == "float32" else getattr(torch, name),
            numerics=method.numerics,
            prunes=method.prunes,
            scales=method.scales,
            alters_base=method.alters_base,
            trains_batch_norm_statistics=method.trains_batch_norm_statistics,
        )

    def settings(self) -> dict[str, Json]:
        return {"method": self.method.name, **self.method.hyperparameters(self.rank)}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        return self.method.adapt(base, heads=self.heads, rank=self.rank, seed=seed)

    def expected_trainable(self, base: nn.Module) -> Mapping[str, tuple[int, ...]]:
        return self.method.expected_trainable(base, heads=self.heads, rank=self.rank)

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        starts = tuple(f"{head}." for head in self.heads)
        return [
            name
            for name, _ in adapted.named_parameters()
            if not name.removeprefix(heads.PEFT_PREFIX).startswith(starts)
        ]

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        return self.method.make_optimizer(model, rank=self.rank)

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        return self.method.projections(optimizer)

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {**self.method.shipped_tensors(model), **self._beside(model)}

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        if not self.moving:
            return {}
        shipped = {tensor.data_ptr() for tensor in self.method.shipped_tensors(model).values()}
        return {
            name.removeprefix(heads.PEFT_PREFIX): tensor
            for name, tensor in heads.moved_buffers(model, self.moving)
            if tensor.data_ptr() not in shipped
        }

    def save(self, model: nn.Module, folder: Path) -> None:
        self.method.save(model, folder)
        heads.save_beside(self._beside(model), folder)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        adapted = self.method.load(base, folder, heads=self.heads, trainable=trainable)
        heads.load_beside(self._beside(adapted), folder)
        return adapted

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        return self.method.disabled(model)

    def merge(self, model: nn.Module) -> nn.Module | None:
        return self.method.merge(model)

    def doubled(self) -> Self | None:
        return None if self.rank is None else dataclasses.replace(self, rank=2 * self.rank)


@dataclass(frozen=True, kw_only=True)
class CallableAdapter(Adapter):
    """Wraps a model by the user's function; nothing is known of it but what trains."""

    wrap: Callable[[nn.Module], Any]

    @property
    def traits(self) -> Traits:
        elsewhere = "an adapter of one's own may start anywhere"
        return Traits(adapter_in_float32=False, starts_elsewhere=elsewhere)

    def definition(self) -> Json:
        return "callable"  # its code defines nothing

    def settings(self) -> dict[str, Json]:
        return {"class": "callable"}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (set before)
        found = heads.find_heads(base, self.heads)
        adapted: object = self.wrap(base)
        if not isinstance(adapted, nn.Module):
            raise InputError(
                f"the adapter returned a {type(adapted).__name__}, not the adapted model"
            )
        for head in found.values():
            head.requires_grad_(requires_grad=True)
        if all(parameter.requires_grad for parameter in adapted.parameters()):
            raise InputError(
                "the adapter freezes nothing: every parameter of the model trains. Let it call "
                "requires_grad_(False) on the model, or use adapter='full'"
            )
        return adapted

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        trained = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        return {**trained, **dict(heads.moved_buffers(model, self.moving))}

    def save(self, model: nn.Module, folder: Path) -> None:
        save_tensors(self.shipped_tensors(model), folder / _FILE)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        seed_all(_LOADING_SEED)
        adapted = self.adapt(base, seed=_LOADING_SEED)
        load_tensors(dict(self.shipped_tensors(adapted)), folder / _FILE)
        if not trainable:
            adapted.requires_grad_(requires_grad=False)
        return adapted
