"""LoHa and LoKr: products of Hadamard and Kronecker, as LyCORIS has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods.fields import RANKS, Fields, by_pattern, rank_patterns, values
from peft_fuzz.methods.method import CONFIGS, Formula, LayerAdapter, Method, Settings
from peft_fuzz.networks.network import Layer


def _scaling(adapter: LayerAdapter) -> float:
    """Return alpha / r (Yeh et al., LyCORIS, arXiv:2309.14859)."""
    settings, name = adapter.settings, adapter.layer_name
    rank = by_pattern(settings.get("rank_pattern"), name, settings["r"])
    alpha = by_pattern(settings.get("alpha_pattern"), name, settings["alpha"])
    return float(alpha / rank)


def core_product(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Return a core tensor with its first two modes multiplied (FedPara, proposition 3).

    core: (r, r, *kernel), outer: (r, outputs), inner: (r, inputs); (outputs, inputs, *kernel).
    """
    return torch.einsum("ij...,ip,jq->pq...", core, outer, inner)


def _hadamard(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return (w1a w1b) o (w2a w2b); Hyeon-Woo et al., FedPara, arXiv:2108.06098, section 2."""
    parts = []
    for which in ("1", "2"):
        a, b = tensors[f"hada_w{which}_a"], tensors[f"hada_w{which}_b"]
        core = tensors.get(f"hada_t{which}")
        parts.append(a @ b if core is None else core_product(core, a, b))
    return parts[0] * parts[1]


def kronecker(factors: Iterable[Tensor], kernel: Sequence[int]) -> Tensor:
    """Return w1 (x) w2; LyCORIS.

    w1: (l, m), w2: (k, n, *kernel); the result is (l, k, m, n, *kernel).
    """
    w1, w2 = factors
    w2 = w2.reshape(w2.shape[0], -1, *kernel)
    return torch.einsum("ab,cd...->acbd...", w1, w2)


def _factors(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield w1 and w2 of LoKr, each of them full or a product of two."""
    for which in ("1", "2"):
        full = tensors.get(f"lokr_w{which}")
        if full is not None:
            yield full
            continue
        a, b = tensors[f"lokr_w{which}_a"], tensors[f"lokr_w{which}_b"]
        core = tensors.get("lokr_t2") if which == "2" else None
        yield a @ b if core is None else core_product(core, a, b)


def _sum(product: Callable[[LayerAdapter, Layer], Tensor]) -> Formula:
    def formula(
        base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
    ) -> Mapping[str, Tensor]:
        weight: Tensor = base.weight  # type: ignore[assignment]
        for adapter in adapters:
            weight = weight + _scaling(adapter) * product(adapter, layer).reshape(weight.shape)
        return {"weight": weight}

    return formula


loha = _sum(lambda adapter, _layer: _hadamard(adapter.tensors))
"""W + alpha / r (w1a w1b) o (w2a w2b)."""
lokr = _sum(lambda adapter, layer: kronecker(_factors(adapter.tensors), layer.kernel))
"""W + alpha / r (w1 (x) w2)."""


def _second_operator(layer: Layer, positions: int) -> int:
    """Return what applying the update on its own costs.

    A linear layer may do so: the base layer is called for its hooks. A convolution that runs twice
    is docs/findings/peft-second-convolution.py.
    """
    return 0 if layer.is_convolution else layer.flops(positions)


def _update_flops(layer: Layer, rank: int) -> int:
    """Count a product of rank r in full size, also by a core tensor."""
    inputs = layer.fan_in // layer.groups
    return 2 * rank * inputs * layer.outputs + 2 * rank * rank * max(
        inputs, layer.outputs * prod(layer.kernel)
    )


def loha_flops(layer: Layer, settings: Settings, positions: int) -> int:
    """Count the two products that make the update."""
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    return 2 * _update_flops(layer, rank) + _second_operator(layer, positions)


def lokr_flops(layer: Layer, settings: Settings, positions: int) -> int:
    """Count the products that make the two factors, each no larger than the layer.

    A Kronecker product multiplies each pair of entries once: (outputs x inputs) multiplications.
    """
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    return (
        2 * _update_flops(layer, rank)
        + 2 * layer.fan_in * layer.outputs
        + _second_operator(layer, positions)
    )


def draw_loha(layers: Sequence[Layer]) -> Fields:
    """Draw LoHa, with its core tensors and dropouts."""
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "alpha": values(1, 2, 4, 16, 32),
            "rank_dropout": values(0.5),
            "module_dropout": values(0.5),
            "use_effective_conv2d": values(True),
            "init_weights": values(False),
            **rank_patterns(layers, RANKS),
        },
    )


def draw_lokr(layers: Sequence[Layer]) -> Fields:
    """Draw LoKr: what LoHa has, and how the factors are made."""
    fields = draw_loha(layers)
    more = {
        "init_weights": st.sampled_from(("lycoris", False)),
        "decompose_both": values(True),
        "decompose_factor": values(2, 3),
        "rank_dropout_scale": values(True),
    }
    return Fields(always=fields.always, sometimes={**fields.sometimes, **more})


LOHA: Final = Method(
    "loha",
    CONFIGS["loha"],
    draw_loha,
    kinds=frozenset({"conv1d", "conv2d", "linear"}),
    formula=loha,
    flops=loha_flops,
    by_hand="added",
    trains=("hada_",),
)
LOKR: Final = replace(
    LOHA,
    name="lokr",
    config=CONFIGS["lokr"],
    draws=draw_lokr,
    formula=lokr,
    flops=lokr_flops,
    by_hand="with_lokr",
    trains=("lokr_",),
)
