"""Adapters that are right by construction, with the part of peft's interface that a life needs.

The fuzzer must stay silent here: `fuzz/tools/control.py` puts this package in place of peft. It is
written in plain torch for this purpose. It trades speed for simplicity: one way to compute each
thing, exact copies of what is merged, and no options that the fuzzer has no check for.
"""

from peft.configs import IA3Config, LoHaConfig, LoKrConfig, LoraConfig
from peft.peft_model import PeftModel, get_peft_model

__all__ = ["IA3Config", "LoHaConfig", "LoKrConfig", "LoraConfig", "PeftModel", "get_peft_model"]

__version__ = "reference"
