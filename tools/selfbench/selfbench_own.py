"""A fine-tuning of one's own, of usual size, for `selfbench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_regress import FineTune

if TYPE_CHECKING:
    from torch import nn

_BATCH = 32


def own_resnet18() -> FineTune:
    """Return LoRA on resnet18, 8 steps of 32 images of 224 x 224."""
    import peft

    return FineTune(
        "own/lora-r4/resnet18",
        model=_resnet18,
        data=_images,
        adapter=peft.LoraConfig(r=4, target_modules=["conv1", "conv2"]),
        also_train=["fc"],
        steps=8,
        batch=_BATCH,
        seeds=1,
    )


def _resnet18() -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(num_classes=10)
    return model


def _images() -> tuple[Any, Any]:
    import torch

    def split(count: int) -> Any:
        return torch.randn(count, 3, 224, 224), torch.arange(count) % 10

    return split(2 * _BATCH), split(_BATCH)
