"""What the edge matrix adapts to: images of a device's size, for cases that ExecuTorch runs.

Such a case is not trained to an accuracy, since its programs cost the same on any images. Drawn
images serve: no two pixels are equal, so no kernel has a tie to break. No torch at import.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress.cases import Adaptation, Json, split_adapter_name
from peft_regress.catalogue.tasks.digits import NUM_CLASSES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peft_regress.catalogue.tasks.digits import Images

EDGE_STEPS: Final = 2
"""Of SGD, that the runtime takes: the second loss shows the first update. A convolution of the
runtime takes a hundred times as long as PyTorch's: a step of resnet18 on 224x224 half a minute."""


@dataclass(frozen=True, kw_only=True)
class EdgeTask:
    """Adapt to images of one size; the exported programs take one batch of them."""

    name: str
    batch: int
    resolution: int
    adaptations: tuple[Adaptation, ...]
    """What it is measured with, in place of all methods and architectures of its matrices."""
    matrices: tuple[str, ...] = ("edge",)

    def definition(self) -> dict[str, Json]:
        """Return what defines the data."""
        return {
            "images": "uniform, mean 0, variance 1, seed 0",
            "shape": [self.batch, 3, self.resolution, self.resolution],
            "classes": NUM_CLASSES,
            "steps": EDGE_STEPS,
        }

    def load(self) -> "tuple[Images, Images]":
        """Draw the images of all steps: (steps * batch, 3, resolution, resolution)."""
        import torch  # listing names must not cost the import

        # Uniform numbers are the same on every processor; normal ones are not.
        generator = torch.Generator().manual_seed(0)
        shape = (EDGE_STEPS * self.batch, 3, self.resolution, self.resolution)
        images: Tensor = (torch.rand(shape, generator=generator) - 0.5) * math.sqrt(12)
        labels = torch.randint(NUM_CLASSES, shape[:1], generator=generator)
        return (images, labels), (images[: self.batch], labels[: self.batch])

    def prepare(self, model: "nn.Module", *, head: str, seed: int) -> None:
        """Leave the model as it is."""


def _pairs(methods: Iterable[str], architectures: Iterable[str]) -> tuple[Adaptation, ...]:
    names = [split_adapter_name(each) for each in methods]
    return tuple(
        Adaptation(method=method, architecture=architecture, rank=rank)
        for architecture in architectures
        for method, rank in names
    )


# LoHa, HiRA and DoRA keep a weight of the layer's size alive for the backward pass, which a plan
# shows; bn_head has no program until statistics can be exported, and is here so that this is seen.
_METHODS: Final = (
    *("full", "head", "bn_head", "bitfit", "ia3"),
    *("lora-r4", "dora-r4", "loha-r4", "hira-r4"),
)
_SMALL: Final = ("mobilenet_v2", "mobilenet_v3_small")
_ARCHITECTURES: Final = ("efficientnet_lite0", *_SMALL, "resnet18", "shufflenet_v2_x0_5")

EDGE: Final = EdgeTask(
    name="edge",
    batch=1,
    resolution=224,
    adaptations=(*_pairs(_METHODS, _ARCHITECTURES), *_pairs(("lora-r1", "lora-r16"), _SMALL)),
)
EDGE_BATCH: Final = EdgeTask(
    name="edge-b8",
    batch=8,
    resolution=96,
    adaptations=_pairs(("full", "head", "bitfit", "lora-r4", "dora-r4"), _SMALL),
)
"""On small images, several at a time."""
