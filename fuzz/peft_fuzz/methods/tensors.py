"""Read an adapter's tensors out of an adapted layer, by names without the adapter's."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARED: Final = frozenset(
    f"{method}_{part}" for method in ("pvera", "randlora", "vera") for part in ("A", "B")
) | {"tinylora_v", "unilora_theta_d", "vblora_vector_bank"}
"""What all adapted layers hold for all adapters; an adapter need not be on such a layer."""


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
