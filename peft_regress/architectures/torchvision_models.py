"""The default architectures: four small CNNs of torchvision, as they come. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MOBILENET_V2",
    "MOBILENET_V3_SMALL",
    "RESNET18",
    "SHUFFLENET_V2_X0_5",
    "TorchvisionModel",
]


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel:
    """A classifier from `torchvision.models`, built without pretrained weights.

    `name` is torchvision's own name, `head` the qualified name of the last linear layer.
    """

    name: str
    head: str
    matrices: tuple[str, ...] = ("default", "extended")

    def build(self, *, num_classes: int, seed: int) -> nn.Module:
        """Build the model with random weights drawn under `seed`; global generators stay as is."""
        import torch  # listing names must not cost the import
        from torchvision.models import get_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = get_model(self.name, weights=None, num_classes=num_classes)
        return cast("nn.Module", model)


RESNET18 = TorchvisionModel(name="resnet18", head="fc")
MOBILENET_V2 = TorchvisionModel(name="mobilenet_v2", head="classifier.1")
MOBILENET_V3_SMALL = TorchvisionModel(name="mobilenet_v3_small", head="classifier.3")
SHUFFLENET_V2_X0_5 = TorchvisionModel(name="shufflenet_v2_x0_5", head="fc")
