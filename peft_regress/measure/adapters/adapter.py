"""What measuring asks of an adapter, whoever wrote it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from peft_regress.cases import Json
from peft_regress.errors import InputError
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """An adapter with its settings. As it stands, no rule of its own says what trains."""

    heads: tuple[str, ...] = ()
    """The modules that train beside it in full."""
    moving: frozenset[str] = frozenset()
    """The buffers of the base that training moves and its library does not ship."""

    @property
    def dtype(self) -> torch.dtype | None:
        """What the base model and its batches are cast to; None keeps their type."""
        return None

    @property
    def numerics(self) -> Numerics:
        """How strongly its training amplifies rounding, which decides the bounds on losses."""
        return "usual"

    @property
    def prunes(self) -> Collection[str]:
        """Parts of the names of parameters that it may set to or leave at zero."""
        return ()

    @property
    def scales(self) -> Collection[str]:
        """Parts of the names of adapter parameters that scale or replace the base's values."""
        return ()

    @property
    def alters_base(self) -> bool:
        """Whether wrapping changes the base's weights."""
        return False

    @property
    def trains_batch_norm_statistics(self) -> bool:
        """Whether the running statistics of BatchNorm layers may move; the loop's mode may, too."""
        return False

    @property
    def starts_elsewhere(self) -> str:
        """Why the adapted, untrained model need not compute the base's output; '' if it must."""
        return ""

    @property
    def loads_for_use_only(self) -> str:
        """Why its library does not load it to train on; '' if it does."""
        return ""

    @property
    def adapter_in_float32(self) -> bool:
        """Whether its library promises adapter parameters in float32."""
        return True

    @property
    def grows_with_rank(self) -> bool:
        """Whether it trains more parameters at a higher rank, always."""
        return True

    def shipping(self, moving: frozenset[str]) -> Self:
        """Return one that also ships these buffers."""
        return dataclasses.replace(self, moving=moving)

    @abstractmethod
    def definition(self) -> Json:
        """Return what its author set."""

    @abstractmethod
    def settings(self) -> Mapping[str, Json]:
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
        import torch

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
