"""What measuring asks of an adapter, whoever wrote it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from peft_regress.cases import Json
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer


class Adapter(Protocol):
    """An adapter with its settings, and the modules that train beside it in full."""

    @property
    def dtype(self) -> torch.dtype | None:
        """What the base model and its batches are cast to; None keeps their type."""

    @property
    def numerics(self) -> Numerics:
        """How strongly its training amplifies rounding, which decides the bounds on losses."""

    @property
    def prunes(self) -> Collection[str]:
        """Parts of the names of parameters that it may set to or leave at zero."""

    @property
    def scales(self) -> Collection[str]:
        """Parts of the names of adapter parameters that scale or replace the base's values."""

    @property
    def alters_base(self) -> bool:
        """Whether wrapping changes the base's weights."""

    @property
    def trains_batch_norm_statistics(self) -> bool:
        """Whether the running statistics of BatchNorm layers may move."""

    @property
    def starts_elsewhere(self) -> str:
        """Why the adapted, untrained model need not compute the base's output; '' if it must."""

    @property
    def loads_for_use_only(self) -> str:
        """Why its library does not load it to train on; '' if it does."""

    @property
    def adapter_in_float32(self) -> bool:
        """Whether its library promises adapter parameters in float32."""

    @property
    def grows_with_rank(self) -> bool:
        """Whether it trains more parameters at a higher rank, always."""

    def shipping(self, moving: frozenset[str]) -> Self:
        """Return one that also ships these buffers of the base, which training moves."""

    def definition(self) -> Json:
        """Return what its author set."""

    def settings(self) -> Mapping[str, Json]:
        """Return the same by name, for people; a number is named at its default, too."""

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Wrap the model and set what trains; the base must not be used afterwards.

        Raises `UnsupportedCaseError` if no module is eligible, `InputError` for wrong use; passes
        on what a library raises.
        """

    def expected_trainable(self, base: nn.Module) -> Mapping[str, tuple[int, ...]] | None:
        """Return name and shape of what must train, from the base; None without a rule."""

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        """Return the names of its parameters: not those of the heads."""

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of an adapted model, if the case brings none."""

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        """Return the optimizer's projections of gradients, by name; no copies."""

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the base model, by name; no copies."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder."""

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote."""

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """Return a context in which the adapter is off; None if it cannot be switched off."""

    def merge(self, model: nn.Module) -> nn.Module | None:
        """Fold the adapter into a copy of the base model; None if it cannot be."""

    def doubled(self) -> Adapter | None:
        """Return the same adapter at twice the rank; None if it has no rank."""
