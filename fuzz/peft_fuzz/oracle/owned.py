"""Find the tensors of each adapter in a model, by the modules that hold them.

Names alone do not tell: a layer may be called as an adapter is, and one adapter's name may begin
with another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from torch import Tensor, nn

BASE: Final = "base_layer"
SHARED: Final = frozenset(
    f"{method}_{part}" for method in ("pvera", "randlora", "vera") for part in ("A", "B")
) | {"tinylora_v", "unilora_theta_d", "vblora_vector_bank"}
"""What all adapted layers hold for all adapters; an adapter need not be on such a layer."""


def is_tuner_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer with adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def is_copy_holder(module: nn.Module) -> bool:
    """Return whether a module holds the copies of `modules_to_save`."""
    return hasattr(module, "original_module") and "modules_to_save" in dict(module.named_children())


def base_layer(module: nn.Module) -> nn.Module:
    """Return the module that the network had, out of what wraps it."""
    while True:
        if is_tuner_layer(module):
            module = module.get_base_layer()  # type: ignore[operator]
        elif is_copy_holder(module):
            module = module.original_module  # type: ignore[assignment]
        else:
            return module


def held(layer: nn.Module, adapter: str) -> dict[str, Tensor]:
    """Return an adapter's tensors in a layer or holder of copies, by their names in it."""
    found: dict[str, Tensor] = {}
    for name, container in containers(layer):
        if adapter in container.keys():  # type: ignore[operator]  # noqa: SIM118
            value = container[adapter]  # type: ignore[index]
            if isinstance(value, Tensor):
                found[f"{name}.{adapter}"] = value
            else:
                found |= {f"{name}.{adapter}.{key}": each for key, each in _tensors(value)}
    return found


def holders(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with adapters and the holders of copies, by their paths."""
    for path, module in model.named_modules():
        if is_tuner_layer(module) or is_copy_holder(module):
            yield path, module


def containers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the dictionaries of a layer whose keys are names of adapters."""
    for name, child in module.named_children():
        if name not in {BASE, "original_module"} and hasattr(child, "keys"):
            yield name, child


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by their names."""
    return dict(_tensors(module))


def owners(model: nn.Module) -> dict[int, str]:
    """Return the name of the adapter that has a tensor, by the tensor's id."""
    return {
        id(tensor): adapter
        for _, module in holders(model)
        for adapter in adapters_of(module)
        for tensor in held(module, adapter).values()
    }


def adapters_of(module: nn.Module) -> set[str]:
    """Return the names of the adapters that a layer or holder of copies has."""
    return {key for _, container in containers(module) for key in container.keys()}  # type: ignore[operator]  # noqa: SIM118


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def adapter_tensors(layer: nn.Module, adapter: str) -> dict[str, Tensor]:
    """Return what an adapter has in a layer, detached and in float64 (integers as they are).

    `lora_A.default.weight` becomes `lora_A.weight`; parts of the base layer that are adapted
    themselves (an attention's output) go by their name there: `out_proj.lora_A.weight`. Tensors
    that a layer keeps in a plain dictionary by adapter (`indices` of FourierFT) are among them.
    """
    found = {name: _exact(tensor) for name, tensor in own_tensors(layer, adapter).items()}
    for name, value in vars(layer).items():
        if isinstance(value, dict) and hasattr(value.get(adapter), "detach"):
            found[name] = _exact(value[adapter])
    return found if {name.partition(".")[0] for name in found} - SHARED else {}


def own_tensors(layer: nn.Module, adapter: str) -> dict[str, Tensor]:
    """Return the parameters and buffers themselves that an adapter has in a layer, named alike."""
    found: dict[str, Tensor] = {}
    named = chain(
        layer.named_parameters(remove_duplicate=False), layer.named_buffers(remove_duplicate=False)
    )
    for name, tensor in named:
        parts = [part for part in name.split(".") if part != "base_layer"]
        # An adapter may have the name of a part; its own comes after the part that holds it.
        for index in range(1, len(parts)):
            if parts[index] == adapter:
                found[".".join(parts[:index] + parts[index + 1 :])] = tensor
                break
    return found


def _exact(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
