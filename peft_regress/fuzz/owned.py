"""Find the tensors of each adapter in a model, by the modules that hold them.

Names alone do not tell: a layer may be called as an adapter is, and one adapter's name may begin
with another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE: Final = "base_layer"


def is_tuner_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer with adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    return isinstance(module, BaseTunerLayer)


def is_copy_holder(module: nn.Module) -> bool:
    """Return whether a module holds the copies of `modules_to_save`."""
    return hasattr(module, "original_module") and "modules_to_save" in dict(
        module.named_children()
    )


def base_layer(module: nn.Module) -> nn.Module:
    """Return the module that the network had, out of what wraps it."""
    while True:
        if is_tuner_layer(module):
            module = module.get_base_layer()  # type: ignore[operator]
        elif is_copy_holder(module):
            module = module.original_module  # type: ignore[assignment]
        else:
            return module


def containers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the dictionaries of a layer whose keys are names of adapters."""
    for name, child in module.named_children():
        if name not in {BASE, "original_module"} and hasattr(child, "keys"):
            yield name, child


def tensors_in_layer(layer: nn.Module, adapter: str) -> dict[str, Tensor]:
    """Return an adapter's parameters and buffers in a layer, by names without the adapter's.

    What layers inside the base layer have (an attention's output projection) is named by its path,
    as `out_proj.lora_A.weight`.
    """
    found: dict[str, Tensor] = {}
    for name, container in containers(layer):
        if adapter not in container.keys():  # type: ignore[operator]  # noqa: SIM118
            continue
        held = container[adapter]  # type: ignore[index]
        if isinstance(held, Tensor):
            found[name] = held
        elif isinstance(held, nn.Module):
            found |= {f"{name}.{key}": tensor for key, tensor in _tensors(held)}
    inner = getattr(layer, BASE, None)
    if isinstance(inner, nn.Module):
        for path, module in inner.named_modules():
            if path and is_tuner_layer(module):
                inside = tensors_in_layer(module, adapter)
                found |= {f"{path}.{key}": tensor for key, tensor in inside.items()}
    return found


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by their names."""
    return dict(_tensors(module))


def owners(model: nn.Module) -> dict[int, str]:
    """Return the name of the adapter that has a tensor, by the tensor's id."""
    found: dict[int, str] = {}
    for module in model.modules():
        if not (is_tuner_layer(module) or is_copy_holder(module)):
            continue
        for _, container in containers(module):
            for adapter in list(container.keys()):  # type: ignore[operator]
                held = container[adapter]  # type: ignore[index]
                tensors = [held] if isinstance(held, Tensor) else [t for _, t in _tensors(held)]
                found |= {id(tensor): adapter for tensor in tensors}
    return found


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
