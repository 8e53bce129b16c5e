"""Networks to adapt, and what one must provide to be measured. No torch at import."""

from typing import TYPE_CHECKING, Protocol

from peft_regress.registry import Named

if TYPE_CHECKING:
    from torch import nn


class Architecture(Named, Protocol):
    """A network that can be built with any number of classes."""

    @property
    def head(self) -> str:
        """The qualified name of the last layer, which `head` methods train."""

    def build(self, *, num_classes: int, seed: int) -> "nn.Module":
        """Build the model with weights drawn under `seed`; leave the global generators alone."""
