"""What peft does with an adapter beyond training: merge in place, add another, switch, delete."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

SECOND: Final = "second_adapter"
"""The name of an adapter that is added to try it; no module or setting of peft has such a name."""

# Their merging puts the trained copy of a layer in the place of the layer, and computes nothing.
# "whether safe_merge is True or False is irrelevant": peft/tuners/ln_tuning/layer.py
_SWAPPING: Final = "peft.tuners.ln_tuning."
_DEEPEST: Final = 3
# Torch's own notes; a name of no buffer means nothing there.
_OF_TORCH: Final = "_non_persistent_buffers_set"


@dataclass(frozen=True)
class Tuner:
    """A model that peft wrapped, with one adapter in its layers. What peft warns of is not shown.

    Each method passes on what peft raises.
    """

    model: Any

    @classmethod
    def of(cls, model: nn.Module) -> Tuner | None:
        """Take an adapted model; None if it is none of peft's, or has a prompt for an adapter."""
        if not type(model).__module__.startswith("peft."):
            return None
        return cls(model) if hasattr(model, "base_model") and _layers(model) else None

    @property
    def active(self) -> str:
        """Return the name of the active adapter."""
        return str(self.model.active_adapter)

    def merge(self) -> None:
        """Merge the active adapter in place."""
        with _quiet():
            self.model.base_model.merge_adapter()

    def unmerge(self) -> None:
        """Take the merged adapter out again."""
        with _quiet():
            self.model.base_model.unmerge_adapter()

    def add(self) -> None:
        """Add a second adapter of the same settings, which stays inactive."""
        config = copy.deepcopy(self.model.peft_config[self.active])
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model.add_adapter(SECOND, config)

    def switch(self, name: str) -> None:
        """Activate one adapter."""
        with _quiet():
            self.model.set_adapter(name)

    def switch_to_both(self, first: str) -> None:
        """Activate the first adapter and the second one together."""
        with _quiet():
            self.model.base_model.set_adapter([first, SECOND])

    def delete(self) -> None:
        """Delete the second adapter."""
        with _quiet():
            self.model.delete_adapter(SECOND)

    def traces(self) -> list[str]:
        """Return where modules of the model name the second adapter, as module and attribute."""
        return [
            ".".join(filter(None, (name, attribute)))
            for name, module in self.model.named_modules()
            for attribute, value in vars(module).items()
            if attribute != _OF_TORCH and (attribute == SECOND or _names_it(value, _DEEPEST))
        ]

    def smallest_layers(self) -> dict[str, nn.Module]:
        """Return the smallest layer with an adapter of each class, by name, that safe merge checks.

        None of methods that have no such check.
        """
        found: dict[type, tuple[int, str, nn.Module]] = {}
        for name, layer in _layers(self.model).items():
            if type(layer).__module__.startswith(_SWAPPING) or not _has_safe_merge(layer):
                continue
            size = sum(parameter.numel() for parameter in layer.parameters())
            known = found.get(type(layer))
            if known is None or size < known[0]:
                found[type(layer)] = (size, name, layer)
        return {name: layer for _, name, layer in found.values()}


def safely_merged(layer: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Merge a layer with its check for NaN; return the base's tensors, and what peft refused.

    The text is empty if peft did not refuse.
    """
    refused = ""
    with _quiet():
        try:
            layer.merge(safe_merge=True)  # type: ignore[operator]
        except ValueError as error:
            refused = str(error) or type(error).__name__
    return base_tensors(layer), refused


def loads_unnoticed(loaded: nn.Module, folder: Path, names: Iterable[str]) -> str:
    """Return which damaged file peft loads and does not tell; '' if none.

    It must raise for a tensor of another shape, and at least list one that the file lacks. loaded:
    what the saved adapter was loaded into. names: the parameters of the adapter.
    """
    model: Any = loaded
    path = folder / "adapter_model.safetensors"
    if not (path.exists() and hasattr(model, "load_adapter")):
        return ""
    torch_files = import_module("safetensors.torch")
    saved = torch_files.load_file(path)
    name = str(model.active_adapter)
    found = (
        (key, parameter)
        for parameter in names
        if (key := parameter.replace(f".{name}", "")) != parameter
        and key in saved
        and saved[key].ndim
    )
    key, parameter = next(found, ("", ""))
    if not key:
        return ""
    tensor = saved.pop(key)
    wide = torch.cat((tensor, tensor))

    def missing(named: str, tensor: Tensor) -> list[str] | None:
        """Return what peft lists as missing with this tensor instead; None if it raises."""
        torch_files.save_file({**saved, named: tensor}, path)
        try:
            with _quiet():
                found: list[str] = model.load_adapter(folder, name).missing_keys
        except Exception:  # noqa: BLE001  (peft noticed)
            return None
        return found

    absent = missing(f"{key}.other", tensor)
    if absent is not None and parameter not in absent:
        return f"a file without {key}"
    if missing(key, wide) is not None:
        return f"{key} of shape {tuple(wide.shape)}"
    return ""


def base_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers of the layer that was adapted."""
    base: nn.Module = layer.get_base_layer()  # type: ignore[operator]
    return {**dict(base.named_parameters()), **dict(base.named_buffers())}


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    kind = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _has_safe_merge(layer: nn.Module) -> bool:
    merge = getattr(layer, "merge", None)
    return merge is not None and "safe_merge" in inspect.signature(merge).parameters


def _names_it(value: object, depth: int) -> bool:
    """Return whether a container of names holds the second adapter's."""
    if isinstance(value, str):
        return value == SECOND
    if not depth or not isinstance(value, dict | list | tuple | set | frozenset):
        return False
    items: Iterator[object] = iter(value)
    if isinstance(value, dict):
        if any(isinstance(key, str) and SECOND in key for key in value):
            return True
        items = iter(value.values())
    return any(_names_it(item, depth - 1) for item in items)


def _quiet() -> warnings.catch_warnings:
    """Return a context without warnings: these would be about models that nobody keeps."""
    return warnings.catch_warnings(action="ignore")
