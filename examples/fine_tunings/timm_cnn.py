"""A CNN of timm with LoRA on its 1x1 convolutions: own classes, own input size, new head."""

import timm
from peft import LoraConfig

from fine_tunings.photos import NAMES, labelled_crops
from peft_regress import Budget, FineTune

CASE = FineTune(
    "photos/lora-r4/mobilenetv4_conv_small_050",
    model=lambda: timm.create_model("mobilenetv4_conv_small_050", num_classes=len(NAMES)),
    data=lambda: labelled_crops(48),
    adapter=LoraConfig(r=4, target_modules=r".*\.(pw_exp|pw_proj)\.conv"),
    also_train=["classifier"],
    mode="eval",  # BatchNorm keeps its statistics
    steps=10,
    batch=16,
    seeds=2,
    budget=Budget(peak="16 MiB", ship="200 kB"),
)
