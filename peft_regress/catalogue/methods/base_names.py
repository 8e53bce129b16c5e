"""The names of a model's tensors once a library has wrapped it. No torch at import."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def moved_buffers(model: nn.Module, moving: Collection[str]) -> dict[str, Tensor]:
    """Return the buffers that training moves, such as running statistics, by name.

    moving: their names in the base. A library may put something before a name; copies that it keeps
    of whole modules it saves itself.
    """
    ends = tuple(f".{name}" for name in moving)
    return {
        name.removeprefix(PEFT_PREFIX): tensor
        for name, tensor in model.named_buffers()
        if ".modules_to_save." not in name and f".{base_name(name, '')}".endswith(ends)
    }
