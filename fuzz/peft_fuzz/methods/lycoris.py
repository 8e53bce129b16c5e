"""LoHa and LoKr: products of Hadamard and Kronecker, as LyCORIS has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import CONVOLUTIONS, fan_in, layer_flops
from peft_fuzz.methods.method import Formula, LayerAdapter, Method
from peft_fuzz.methods.patterns import by_pattern

if TYPE_CHECKING:
    from torch import Tensor, nn


def _scaling(adapter: LayerAdapter) -> float:
    """Return alpha / r (Yeh et al., LyCORIS, arXiv:2309.14859)."""
    settings, name = adapter.settings, adapter.layer_name
    rank = by_pattern(settings.get("rank_pattern"), name, settings["r"])
    alpha = by_pattern(settings.get("alpha_pattern"), name, settings["alpha"])
    return float(adapter.scale * alpha / rank)


def _core(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Return a core tensor with its first two modes multiplied (FedPara, proposition 3).

    core: (r, r, *kernel), outer: (r, outputs), inner: (r, inputs); (outputs, inputs, *kernel).
    """
    import torch

    return torch.einsum("ij...,ip,jq->pq...", core, outer, inner)


def _hadamard(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return (w1a w1b) o (w2a w2b); Hyeon-Woo et al., FedPara, arXiv:2108.06098, section 2."""
    parts = []
    for which in ("1", "2"):
        a, b = tensors[f"hada_w{which}_a"], tensors[f"hada_w{which}_b"]
        core = tensors.get(f"hada_t{which}")
        parts.append(a @ b if core is None else _core(core, a, b))
    return parts[0] * parts[1]


def _kronecker(tensors: Mapping[str, Tensor], kernel: tuple[int, ...]) -> Tensor:
    """Return w1 (x) w2; each of them full or a product of two; LyCORIS.

    w1: (l, m), w2: (k, n, *kernel); the result is (l k, m n, *kernel).
    """
    import torch

    full = tensors.get("lokr_w1")
    w1 = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"] if full is None else full
    w2 = tensors.get("lokr_w2")
    if w2 is None:
        a, b = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
        core = tensors.get("lokr_t2")
        w2 = a @ b if core is None else _core(core, a, b)
    positions = prod(kernel)
    w2 = w2.reshape(w2.shape[0], -1, positions)
    return torch.stack([torch.kron(w1, w2[..., index]) for index in range(positions)], dim=-1)


def _sum(
    product: Callable[[LayerAdapter, Layer], Tensor],
) -> Formula:
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
lokr = _sum(lambda adapter, layer: _kronecker(adapter.tensors, layer.kernel))
"""W + alpha / r (w1 (x) w2)."""


def _second_operator(layer: Layer, positions: int) -> int:
    """Return what applying the update on its own costs.

    A linear layer may do so: the base layer is called for its hooks. A convolution that runs twice
    is docs/findings/peft-second-convolution.md.
    """
    return 0 if layer.kind in CONVOLUTIONS else layer_flops(layer, positions)


def _update_flops(layer: Layer, rank: int) -> int:
    """Count a product of rank r in full size, also by a core tensor."""
    inputs = fan_in(layer) // layer.groups
    return 2 * rank * inputs * layer.outputs + 2 * rank * rank * max(
        inputs, layer.outputs * prod(layer.kernel)
    )


def loha_flops(layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool) -> int:
    """Count the two products that make the update."""
    del training
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    return 2 * _update_flops(layer, rank) + _second_operator(layer, positions)


def lokr_flops(layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool) -> int:
    """Count the products that make the two factors, each no larger than the layer.

    A Kronecker product multiplies each pair of entries once: (outputs x inputs) multiplications.
    """
    del training
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    return (
        2 * _update_flops(layer, rank)
        + 2 * fan_in(layer) * layer.outputs
        + _second_operator(layer, positions)
    )


def _identity(settings: Mapping[str, Any]) -> bool:
    return bool(settings["init_weights"])


def _random(settings: Mapping[str, Any]) -> bool:
    return bool(settings["rank_dropout"] or settings["module_dropout"])


_KINDS: Final = frozenset[Any]({"conv1d", "conv2d", "linear"})

LOHA: Final = Method(
    name="loha",
    config="LoHaConfig",
    kinds=_KINDS,
    abilities=frozenset({"merge", "scale", "several_active", "unmerge"}),
    source="Hyeon-Woo et al., arXiv:2108.06098, propositions 1 and 3",
    formula=loha,
    trains=("hada_",),
    flops=loha_flops,
    identity=_identity,
    random=_random,
)

LOKR: Final = Method(
    name="lokr",
    config="LoKrConfig",
    kinds=_KINDS,
    abilities=frozenset({"merge", "scale", "several_active", "unmerge"}),
    source="Yeh et al., arXiv:2309.14859",
    formula=lokr,
    trains=("lokr_",),
    flops=lokr_flops,
    identity=_identity,
    random=_random,
)
