"""The learning rate of each method, in one place."""

from __future__ import annotations

from typing import Final

from peft_regress.cases import BFLOAT16_SUFFIX

# Peak rates of the cosine schedule in `finetune`. `tools/studies/task_study.py --learning-rates`
# found them: a quarter of each rate to twice the rate, two seeds, all architectures for LoRA and
# full fine-tuning and some of them for the others; DoRA has LoRA's. One rate per method is a
# compromise between architectures: LoRA improves up to 5e-3 and beyond on the mobile networks,
# while resnet18 already varies a lot; full fine-tuning is best at 5e-4 on unseen classes and lower
# on mobilenet_v2 under shift; for the head, with and without BatchNorm statistics, accuracy is flat
# around the rate. The rates shall give stable measurements, not the best accuracy.
LEARNING_RATES: Final[dict[str, float]] = {
    "full": 4e-4,
    "head": 1e-2,
    "bn_head": 5e-3,
    "lora": 4e-3,
    "dora": 4e-3,
    "lora-grouped": 4e-3,
    "dora-grouped": 4e-3,
    "galore": 4e-3,
    "galore-cloned": 4e-3,
    "bitfit": 4e-3,
    "norm": 4e-3,
    "rslora": 4e-3,
    "loraplus": 2e-3,
    "lorafa": 1e-2,
    "pissa": 1e-2,
    "olora": 1e-2,
    "adalora": 1e-2,
    "loha": 1e-2,
    "lokr": 5e-3,
    "loha-tucker": 1e-2,
    "lokr-tucker": 5e-3,
    "hira": 1e-2,
    "hra": 4e-3,
    "oft": 4e-3,
    "boft": 4e-3,
    "ia3": 5e-3,
    "ln_tuning": 4e-3,
}


def learning_rate(method: str) -> float:
    """Return the peak learning rate of a built-in method, the same on every base."""
    return LEARNING_RATES[method.removesuffix(BFLOAT16_SUFFIX)]
