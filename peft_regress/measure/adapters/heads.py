"""The modules that train in full beside an adapter, and the names of tensors in the base."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from peft_regress.catalogue.methods.method import load_tensors, save_tensors
from peft_regress.errors import InputError

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


BESIDE_FILE: Final = "trained_beside.safetensors"
"""Beside the library's own files: the heads, and statistics that moved."""


def find_heads(base: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Return the modules of these names. Raises `InputError` for one that the model lacks."""
    found = {}
    for name in names:
        try:
            found[name] = base.get_submodule(name)
        except AttributeError:
            known = ", ".join(child for child, _ in base.named_children())
            raise InputError(
                f"also_train: {type(base).__name__} has no module {name!r}; it has {known}"
            ) from None
        if next(found[name].parameters(), None) is None:
            raise InputError(f"also_train: module {name!r} has no parameters to train")
    return found


def check_untouched(base: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    """Raise `InputError` if an adapter replaced a module that is to train in full, or a part.

    base: the model after it was adapted in place.
    """
    for name, head in heads.items():
        inner = (k for k, part in head.named_modules() if type(part).__module__.startswith("peft."))
        part = "" if base.get_submodule(name) is not head else next(inner, None)
        if part is not None:
            raise InputError(
                f"the adapter targets {f'{name}.{part}'.removesuffix('.')!r}, and also_train "
                f"trains {name!r} in full: leave it to one"
            )


def moved_buffers(model: nn.Module, moving: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that training moves, such as running statistics, by name.

    moving: their names in the base. A library may put something before a name; copies that it keeps
    of whole modules it saves itself.
    """
    ends = tuple(f".{name}" for name in moving)
    for name, tensor in model.named_buffers():
        if ".modules_to_save." not in name and f".{base_name(name, '')}".endswith(ends):
            yield name, tensor


def beside(model: nn.Module, heads: tuple[str, ...], moving: Collection[str]) -> dict[str, Tensor]:
    """Return the heads' parameters and the buffers that training moves, by names in the base."""
    starts = tuple(f"{head}." for head in heads)
    found = {
        name.removeprefix(PEFT_PREFIX): parameter.detach()
        for name, parameter in model.named_parameters()
        if name.removeprefix(PEFT_PREFIX).startswith(starts)
    }
    for name, tensor in moved_buffers(model, moving):
        found[name.removeprefix(PEFT_PREFIX)] = tensor
    return found


def save_beside(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write what is shipped beside the adapter, if anything is."""
    if tensors:
        save_tensors(tensors, folder / BESIDE_FILE)


def load_beside(targets: Mapping[str, Tensor], folder: Path) -> None:
    """Read it into a model's tensors. Raises `InputError` for tensors of other names or shapes."""
    if targets:
        with torch.no_grad():
            load_tensors(targets, folder / BESIDE_FILE)
