"""Ways to fine-tune a model. No torch at import."""

from peft_regress.catalogue.methods.adapters import ADAPTERS, DORA, LORA
from peft_regress.catalogue.methods.galore import GALORE, GALORE_BF16, GALORE_CLONED, GaLore
from peft_regress.catalogue.methods.method import Method
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter
from peft_regress.catalogue.methods.selective import (
    BITFIT,
    BITFIT_BF16,
    BN_HEAD,
    FULL,
    FULL_BF16,
    HEAD,
    NORM,
    NORM_BF16,
    Selective,
)

__all__ = [
    "ADAPTERS",
    "BITFIT",
    "BITFIT_BF16",
    "BN_HEAD",
    "DORA",
    "FULL",
    "FULL_BF16",
    "GALORE",
    "GALORE_BF16",
    "GALORE_CLONED",
    "HEAD",
    "LORA",
    "NORM",
    "NORM_BF16",
    "GaLore",
    "Method",
    "PeftAdapter",
    "Selective",
]
