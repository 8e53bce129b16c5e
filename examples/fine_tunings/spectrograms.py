"""Sounds as spectrograms of one channel, told apart by a CNN of timm with LoRA."""

import timm
from peft import LoraConfig
from torch.optim import AdamW

from fine_tunings.made_up import spectrograms
from peft_regress import FineTune

CASE = FineTune(
    "waves/lora-r4/mobilenetv3_small_050",
    model=lambda: timm.create_model("mobilenetv3_small_050", in_chans=1, num_classes=3),
    data=spectrograms,
    adapter=LoraConfig(r=4, target_modules=["conv_pw", "conv_pwl"]),
    also_train=["conv_stem", "classifier"],
    mode="eval",
    optimizer=lambda model: AdamW(model.parameters(), lr=0.01, foreach=False),
    steps=12,
    batch=16,
    seeds=2,
)
