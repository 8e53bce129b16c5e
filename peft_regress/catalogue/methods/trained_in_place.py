"""What methods without an adapter share: they train the model itself. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.catalogue.methods.parts import (
    MODEL_FILE,
    MethodProperties,
    load_tensors,
    save_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class InPlace(MethodProperties):
    """Ship tensors of the model itself; there is nothing to switch off or to merge."""

    def adapt(
        self, model: nn.Module, *, heads: tuple[str, ...], rank: int | None, seed: int
    ) -> nn.Module:
        """Set what trains."""
        raise NotImplementedError

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return what a device needs beyond the source model."""
        raise NotImplementedError

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the shipped tensors."""
        save_tensors(self.shipped_tensors(model), folder / MODEL_FILE)

    def load(
        self, base: nn.Module, folder: Path, *, heads: tuple[str, ...], trainable: bool
    ) -> nn.Module:
        """Load shipped tensors into a fresh base. Raises `InputError`."""
        model = self.adapt(base, heads=heads, rank=None, seed=0)
        load_tensors(self.shipped_tensors(model), folder / MODEL_FILE)
        return model if trainable else model.requires_grad_(requires_grad=False)

    def disabled(self, model: nn.Module) -> None:  # noqa: ARG002  (protocol)
        """Return None: there is no adapter to switch off."""
        return

    def merge(self, model: nn.Module) -> None:  # noqa: ARG002
        """Return None: there is no adapter to fold in."""
        return
