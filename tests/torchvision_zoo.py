"""The classifiers of torchvision as test parameters."""

import pytest

from peft_regress.catalogue.architectures.torchvision_models import TORCHVISION

__all__ = ["ONE_OF_A_KIND", "every_classifier"]

ONE_OF_A_KIND = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_16",
)
"""One of each class of model, or more if its blocks differ."""


def every_classifier():
    """List the names, those that repeat a kind marked as nightly."""
    return [
        pytest.param(name, marks=() if name in ONE_OF_A_KIND else pytest.mark.nightly)
        for name in TORCHVISION.names()
    ]
