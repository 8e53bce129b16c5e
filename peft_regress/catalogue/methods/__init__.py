"""Ways to fine-tune a model. No torch at import."""

from peft_regress.catalogue.methods.adapters import ADAPTERS, DORA, LORA
from peft_regress.catalogue.methods.galore import GaLore
from peft_regress.catalogue.methods.method import Method
from peft_regress.catalogue.methods.peft_adapter import PeftAdapter
from peft_regress.catalogue.methods.selective import Selective

__all__ = ["ADAPTERS", "DORA", "LORA", "GaLore", "Method", "PeftAdapter", "Selective"]
