"""What each method promises, and its formula: one sheet each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from peft_fuzz.methods.elementwise import C3A, FOURIERFT, HIRA, IA3, SHIRA, VERA
from peft_fuzz.methods.lora import ADALORA, DORA, LORA
from peft_fuzz.methods.lycoris import LOHA, LOKR
from peft_fuzz.methods.method import LayerAdapter, Method
from peft_fuzz.methods.rotations import BOFT, HRA, OFT
from peft_fuzz.methods.without_formula import OTHERS

__all__ = ["METHODS", "LayerAdapter", "Method"]

_SHEETS: Final = (
    *(LORA, DORA, LOHA, LOKR, IA3, ADALORA, HRA, BOFT, OFT, VERA, FOURIERFT, HIRA, C3A, SHIRA),
    *OTHERS,
)
METHODS: Final[Mapping[str, Method]] = {method.name: method for method in _SHEETS}
