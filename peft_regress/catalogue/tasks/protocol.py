"""What an adaptation task must offer to be measured. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peft_regress.cases import Json

__all__ = ["Task", "TaskData"]


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Images and labels as plain tensors, ready for the model.

    Shapes: images (count, 3, 32, 32) float32, labels (count,) int64.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def cast(self, dtype: str) -> TaskData:
        """Return the same with images of another floating-point type, such as `bfloat16`."""
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
        """The matrices that it belongs to, such as `default` and `extended`; or none."""

    def definition(self) -> dict[str, Json]:
        """Return what defines the data: digest of raw bytes, split, preprocessing parameters."""

    def load(self) -> TaskData:
        """Read the data; nothing is downloaded."""

    def prepare(self, model: nn.Module, *, head: str, seed: int) -> None:
        """Make the source model ready for the task in place, e.g. with a new head."""
