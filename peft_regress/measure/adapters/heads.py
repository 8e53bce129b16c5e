"""The modules that train in full beside an adapter, and what else a device needs of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from peft_regress.catalogue.methods.parts import load_tensors, save_tensors
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

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
            msg = f"also_train: {type(base).__name__} has no module {name!r}; it has {known}"
            raise InputError(msg) from None
    return found


def check_untouched(adapted: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    """Raise `InputError` if the adapter replaced a module that is to train in full, or a part."""
    kept = {id(module) for module in adapted.modules()}
    for name, head in heads.items():
        if id(head) not in kept:
            msg = f"the adapter targets {name!r}, which also_train trains in full: leave it to one"
            raise InputError(msg)
        for inner, module in head.named_modules():
            if type(module).__module__.startswith("peft."):
                part = f"{name}.{inner}".removesuffix(".")
                msg = (
                    f"the adapter targets {part!r}, inside {name!r}, which also_train trains in "
                    "full: leave it to one"
                )
                raise InputError(msg)


def running_statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the running statistics of layers that estimate them in train mode, by name."""
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            for key, tensor in module.named_buffers(recurse=False):
                yield f"{name}.{key}".removeprefix("."), tensor


def beside(model: nn.Module, heads: tuple[str, ...], prefix: str) -> dict[str, Tensor]:
    """Return the heads' parameters and all running statistics, by their names in the base."""
    starts = tuple(f"{head}." for head in heads)
    found = {
        name.removeprefix(prefix): parameter.detach()
        for name, parameter in model.named_parameters()
        if name.removeprefix(prefix).startswith(starts)
    }
    for name, tensor in running_statistics(model):
        found[name.removeprefix(prefix)] = tensor
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
