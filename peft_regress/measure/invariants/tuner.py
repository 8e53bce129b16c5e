"""What peft does with an adapter beyond training: add another, name its layers, load a bad file."""

import copy
import inspect
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peft_regress.measure.invariants.facts import null

SECOND: Final = "second_adapter"
"""The name of an adapter that is added to try it; no module or setting of peft has such a name."""

# Their merging puts the trained copy of a layer in the place of the layer, and computes nothing.
# "whether safe_merge is True or False is irrelevant": peft/tuners/ln_tuning/layer.py
_SWAPPING: Final = "peft.tuners.ln_tuning."
_DEEPEST: Final = 3
# Torch's own notes; a name of no buffer means nothing there.
_OF_TORCH: Final = "_non_persistent_buffers_set"


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with an adapter of peft's, by name; none if peft did not wrap the model."""
    if not (type(model).__module__.startswith("peft.") and hasattr(model, "base_model")):
        return {}
    kind = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def require_layers(model: nn.Module) -> None:
    """Raise `FactError` for a model without layers with an adapter of peft's."""
    if not layers_of(model):
        raise null("it is no adapter in layers of peft")


def quiet() -> warnings.catch_warnings:
    """Return a context without warnings: these would be about models that nobody keeps."""
    return warnings.catch_warnings(action="ignore")


def add_second(model: Any) -> None:
    """Add a second adapter of the same settings, which stays inactive."""
    config = copy.deepcopy(model.peft_config[model.active_adapter])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.add_adapter(SECOND, config)


def traces_of_second(model: nn.Module) -> list[str]:
    """Return where modules of the model name the second adapter, as module and attribute."""
    return [
        ".".join(filter(None, (name, attribute)))
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if attribute != _OF_TORCH and (attribute == SECOND or _names_it(value, _DEEPEST))
    ]


def _names_it(value: object, depth: int) -> bool:
    if isinstance(value, str):
        return value == SECOND
    if not depth or not isinstance(value, dict | list | tuple | set | frozenset):
        return False
    if isinstance(value, dict):
        if any(isinstance(key, str) and SECOND in key for key in value):
            return True
        value = list(value.values())
    return any(_names_it(item, depth - 1) for item in value)


def smallest_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the smallest adapted layer of each class that a safe merge checks, by name."""
    found: dict[type, tuple[int, str, nn.Module]] = {}
    for name, layer in layers_of(model).items():
        merge: Any = getattr(layer, "merge", None)
        is_checked = merge is not None and "safe_merge" in inspect.signature(merge).parameters
        if type(layer).__module__.startswith(_SWAPPING) or not is_checked:
            continue
        size = sum(parameter.numel() for parameter in layer.parameters())
        known = found.get(type(layer))
        if known is None or size < known[0]:
            found[type(layer)] = (size, name, layer)
    return {name: layer for _, name, layer in found.values()}


def loads_unnoticed(loaded: Any, folder: Path, names: Iterable[str]) -> str:
    """Return which damaged file peft loads and does not tell; '' if none.

    It must raise for a tensor of another shape, and at least list one that the file lacks. loaded:
    what the saved adapter was loaded into. names: the parameters of the adapter.
    """
    path = folder / "adapter_model.safetensors"
    if not (path.exists() and hasattr(loaded, "load_adapter")):
        return ""
    saved = load_file(path)
    name = str(loaded.active_adapter)
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
        save_file({**saved, named: tensor}, path)
        try:
            with quiet():
                found: list[str] = loaded.load_adapter(folder, name).missing_keys
        except Exception:  # noqa: BLE001  (peft noticed)
            return None
        return found

    absent = missing(f"{key}.other", tensor)
    if absent is not None and parameter not in absent:
        return f"a file without {key}"
    if missing(key, wide) is not None:
        return f"{key} of shape {tuple(wide.shape)}"
    return ""
