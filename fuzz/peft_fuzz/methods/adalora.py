"""AdaLoRA: an update in the form of a singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import as_rows, fan_in
from peft_fuzz.methods.method import LayerAdapter, Limit, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


def adalora(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return W + alpha / r P L Q; Zhang et al., AdaLoRA, arXiv:2303.10512, equation 3.

    P is lora_B, L the diagonal lora_E, Q lora_A. None after pruning: whether r is then the first
    rank or the one that is left is nowhere documented.
    """
    weight = as_rows(base.weight, layer.kind)  # type: ignore[arg-type]
    for adapter in adapters:
        tensors, settings = adapter.tensors, adapter.settings
        rank = settings["init_r"]
        if tensors["lora_E"].shape[0] != rank:
            return None
        update = tensors["lora_B"] @ (tensors["lora_A"] * tensors["lora_E"])
        factor = adapter.scale * settings["lora_alpha"] / rank
        weight = weight + factor * update.reshape(weight.shape)
    return {"weight": as_rows(weight, layer.kind)}


def adalora_flops(
    layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool
) -> int:
    """Count two thin products, or the product that makes the update in full size."""
    del training
    rank = settings["init_r"]
    inputs = fan_in(layer)
    thin = 2 * rank * (inputs + layer.outputs) * positions
    return int(max(thin, 2 * rank * inputs * layer.outputs))


ADALORA: Final = Method(
    name="adalora",
    config="AdaLoraConfig",
    kinds=frozenset[Any]({"conv2d", "linear", "transposed_linear"}),
    abilities=frozenset({"merge", "unmerge"}),
    source="Zhang et al., arXiv:2303.10512, equation 3",
    formula=adalora,
    trains=("lora_A", "lora_B", "lora_E"),
    flops=adalora_flops,
    needed=frozenset({"init_r", "target_r", "tfinal", "tinit", "total_step"}),
    limits=(
        Limit(
            message="supports only 1 trainable adapter",
            source="error text of peft.tuners.adalora.model",
            error="ValueError",
        ),
    ),
    identity=lambda settings: bool(settings["init_lora_weights"]),
    random=lambda settings: bool(settings["lora_dropout"]),
)
