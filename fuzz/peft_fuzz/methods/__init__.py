"""What each method promises, and its formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from peft_fuzz.methods.adalora import ADALORA
from peft_fuzz.methods.elementwise import FOURIERFT, HIRA, VERA
from peft_fuzz.methods.ia3 import IA3
from peft_fuzz.methods.lora import DORA, LORA
from peft_fuzz.methods.lycoris import LOHA, LOKR
from peft_fuzz.methods.method import Ability, LayerAdapter, Limit, Method
from peft_fuzz.methods.others import OTHERS
from peft_fuzz.methods.rotations import BOFT, HRA, OFT
from peft_fuzz.methods.tensors import adapter_tensors, own_tensors

__all__ = [
    "METHODS",
    "Ability",
    "LayerAdapter",
    "Limit",
    "Method",
    "adapter_tensors",
    "available",
    "own_tensors",
]

METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        LORA,
        DORA,
        LOHA,
        LOKR,
        IA3,
        ADALORA,
        HRA,
        BOFT,
        OFT,
        VERA,
        FOURIERFT,
        HIRA,
        *OTHERS,
    )
}


def available() -> tuple[str, ...]:
    """Return the names of the methods that the installed peft has."""
    return tuple(name for name, method in METHODS.items() if method.available)
