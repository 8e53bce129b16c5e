"""What an architecture must provide to be measured. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Architecture(Protocol):
    """A network that can be built with any number of classes."""

    @property
    def name(self) -> str:
        """The name in a case id."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that it belongs to, such as `default` and `extended`."""

    @property
    def head(self) -> str:
        """The qualified name of the last layer, which `head` methods train."""

    def build(self, *, num_classes: int, seed: int) -> nn.Module:
        """Build the model with weights drawn under `seed`; leave the global generators alone."""
