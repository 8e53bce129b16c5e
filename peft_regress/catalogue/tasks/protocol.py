"""What a task must provide to be measured. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peft_regress.cases import Json


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Images and labels as plain tensors, ready for the model."""

    train_images: Tensor
    """(count, 3, 32, 32) float32"""
    train_labels: Tensor
    """(count,) int64"""
    test_images: Tensor
    """(count, 3, 32, 32) float32"""
    test_labels: Tensor
    """(count,) int64"""

    def cast(self, dtype: str) -> TaskData:
        """Return the same data with images of another floating-point type, such as `bfloat16`."""
        import torch  # listing names must not cost the import

        wanted = getattr(torch, dtype)
        return replace(
            self, train_images=self.train_images.to(wanted), test_images=self.test_images.to(wanted)
        )


class Task(Protocol):
    """What a source model is adapted to."""

    @property
    def name(self) -> str:
        """The name in a case id."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that it belongs to, such as `default` and `extended`."""

    def definition(self) -> dict[str, Json]:
        """Return what defines the data: digest of raw bytes, split, preprocessing parameters."""

    def load(self) -> TaskData:
        """Read the data; nothing is downloaded."""

    def prepare(self, model: nn.Module, *, head: str, seed: int) -> None:
        """Prepare the source model for the task in place, for example with a new head."""
