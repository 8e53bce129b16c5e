"""Ways to fine-tune a model. No torch at import."""

from peft_regress.methods.galore import GALORE, GaLore
from peft_regress.methods.lora import DORA, LORA, LowRankAdapter
from peft_regress.methods.protocol import Method
from peft_regress.methods.selective import BN_HEAD, FULL, HEAD, Selective

__all__ = [
    "BN_HEAD",
    "DORA",
    "FULL",
    "GALORE",
    "HEAD",
    "LORA",
    "GaLore",
    "LowRankAdapter",
    "Method",
    "Selective",
]
