"""A CNN of torchvision with LoRA on its 3x3 convolutions: own classes, own input size, new head."""

import torchvision
from peft import LoraConfig
from torch.optim import AdamW

from fine_tunings.photos import NAMES, labelled_crops
from peft_regress import FineTune

CASE = FineTune(
    "photos/lora-r4/resnet18",
    model=lambda: torchvision.models.resnet18(num_classes=len(NAMES)),
    data=lambda: labelled_crops(32),
    adapter=LoraConfig(r=4, target_modules=r"layer\d.*\.conv[12]"),
    also_train=["conv1", "fc"],
    mode="eval",  # BatchNorm keeps its statistics
    optimizer=lambda model: AdamW(model.parameters(), lr=0.003, foreach=False),
    steps=8,
    batch=16,
    seeds=2,
)
