"""Networks to adapt, unmodified from torchvision. No torch at import."""

from peft_regress.architectures.protocol import Architecture
from peft_regress.architectures.torchvision_models import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
    TorchvisionModel,
)

__all__ = [
    "MOBILENET_V2",
    "MOBILENET_V3_SMALL",
    "RESNET18",
    "SHUFFLENET_V2_X0_5",
    "Architecture",
    "TorchvisionModel",
]
