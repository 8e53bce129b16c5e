"""AdaLoRA: an update in the form of a singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import RANKS, Fields, off, values
from peft_fuzz.methods.method import LayerAdapter, Limit, Method
from peft_fuzz.networks.network import Layer


def adalora(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return W + alpha / r P L Q; Zhang et al., AdaLoRA, arXiv:2303.10512, equation 3.

    P is lora_B, L the diagonal lora_E, Q lora_A. None after pruning: whether r is then the first
    rank or the one that is left is nowhere documented.
    """
    weight = m.rows_of(base, layer)
    for adapter in adapters:
        tensors, settings = adapter.tensors, adapter.settings
        rank = settings["init_r"]
        if tensors["lora_E"].shape[0] != rank:
            return None
        update = tensors["lora_B"] @ (tensors["lora_A"] * tensors["lora_E"])
        factor = settings["lora_alpha"] / rank
        weight = weight + factor * update.reshape(weight.shape)
    return {"weight": m.as_rows(weight, layer.kind)}


def adalora_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count two thin products, or the product that makes the update in full size."""
    rank = settings["init_r"]
    inputs = layer.fan_in
    thin = 2 * rank * (inputs + layer.outputs) * positions
    return int(max(thin, 2 * rank * inputs * layer.outputs))


def draw_adalora(_layers: Sequence[Layer]) -> Fields:
    """Draw a schedule that prunes after the steps of a life, or rarely within them."""
    return Fields(
        always={
            "init_r": values(*RANKS),
            "target_r": st.just(1),
            "tinit": st.just(50),
            "tfinal": st.just(10),
            "total_step": st.just(100),
        },
        sometimes={
            "lora_alpha": values(1, 2, 4, 16, 32),
            "lora_dropout": values(0.5),
            "init_lora_weights": off(),
            "orth_reg_weight": values(0.1),
        },
        bias="lora_only",
    )


ADALORA: Final = Method(
    "adalora",
    m.CONFIGS["adalora"],
    "Zhang et al., arXiv:2303.10512, equation 3",
    draw_adalora,
    kinds=m.DENSE | {"conv2d"},
    abilities=frozenset({"merge", "unmerge"}),
    formula=adalora,
    flops=adalora_flops,
    by_hand="added",
    trains=("lora_A", "lora_B", "lora_E"),
    limits=(
        Limit(
            "supports only 1 trainable adapter",
            "error text of peft.tuners.adalora.model",
            stage=None,
        ),
    ),
    identity=lambda settings: bool(settings["init_lora_weights"]),
)
