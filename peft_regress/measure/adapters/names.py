"""How a tensor of an adapted model is called in the base model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn

PEFT_PREFIX: Final = "base_model.model."
"""What peft puts before the names of the model that it wraps."""

_COPIES = re.compile(r"\.(?:original_module|modules_to_save\.[^.]+)\.")


def base_prefix(adapted: nn.Module, base: nn.Module) -> str:
    """Return what a library puts before the base's names: the shortest that fits all its children.

    The empty prefix if the children are not found.
    """
    children = [name for name, _ in base.named_children()]
    if not children:
        is_wrapped = any(name == PEFT_PREFIX[:-1] for name, _ in adapted.named_modules())
        return PEFT_PREFIX if is_wrapped else ""
    names = {name for name, _ in adapted.named_modules()}
    last = children[0]
    prefixes: list[str] = sorted(
        (name.removesuffix(last) for name in names if f".{name}".endswith(f".{last}")), key=len
    )
    for prefix in prefixes:
        if all(f"{prefix}{child}" in names for child in children):
            return prefix
    return ""


def base_name(name: str, prefix: str) -> str:
    """Return the base's name of a parameter or buffer, if it is one of the base's."""
    plain = name.removeprefix(prefix).replace(".base_layer.", ".")
    return _COPIES.sub(".", plain)
