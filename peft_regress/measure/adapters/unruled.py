"""What the users' own adapters have in common: no rule says what trains, and AdamW trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class UnruledAdapter:
    """A part of an `Adapter` for which the project has no rule of its own."""

    def expected_trainable(
        self,
        base: nn.Module,  # noqa: ARG002  (protocol)
    ) -> Mapping[str, tuple[int, ...]] | None:
        """Return None: what trains is judged by the reference."""
        return None

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return AdamW with torch's settings, one tensor at a time so that its work is counted."""
        return default_optimizer(model)

    def projections(
        self,
        optimizer: Optimizer,  # noqa: ARG002  (protocol)
    ) -> Mapping[str, Tensor]:
        """Return nothing: gradients are used unprojected."""
        return {}


def default_optimizer(model: nn.Module) -> Optimizer:
    """Return AdamW with torch's settings over what trains, one tensor at a time."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("nothing to train: no parameter of the adapted model requires a gradient")
    return torch.optim.AdamW(trained, foreach=False, fused=False)
