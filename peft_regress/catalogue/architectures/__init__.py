"""Networks to adapt: torchvision's, unmodified, and EfficientNet-Lite. No torch at import."""

from peft_regress.catalogue.architectures.efficientnet_lite import (
    EFFICIENTNET_LITE0,
    EfficientNetLite0,
)
from peft_regress.catalogue.architectures.protocol import Architecture, BringsWeights
from peft_regress.catalogue.architectures.torchvision_models import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
    TORCHVISION,
    TorchvisionFamily,
    TorchvisionModel,
)

__all__ = [
    "EFFICIENTNET_LITE0",
    "MOBILENET_V2",
    "MOBILENET_V3_SMALL",
    "RESNET18",
    "SHUFFLENET_V2_X0_5",
    "TORCHVISION",
    "Architecture",
    "BringsWeights",
    "EfficientNetLite0",
    "TorchvisionFamily",
    "TorchvisionModel",
]
