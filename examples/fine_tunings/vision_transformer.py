"""A small ViT of timm with LoRA and with DoRA on its attention."""

import timm
from peft import LoraConfig

from fine_tunings.photos import NAMES, labelled_crops
from peft_regress import FineTune

SIZES = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 3, "num_heads": 3}


def build():
    return timm.models.VisionTransformer(**SIZES, num_classes=len(NAMES))


CASES = [
    FineTune(
        f"photos/{method}-r4/vit",
        model=build,
        data=lambda: labelled_crops(32),
        adapter=LoraConfig(r=4, target_modules=["qkv", "attn.proj"], use_dora=method == "dora"),
        also_train=["head"],
        steps=15,
        batch=16,
        seeds=2,
    )
    for method in ("lora", "dora")
]
