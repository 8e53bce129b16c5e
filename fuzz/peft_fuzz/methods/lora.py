"""LoRA with its options, DoRA and AdaLoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm, sqrt
from typing import Any, Final, get_args

from hypothesis import strategies as st
from msgspec.structs import replace as changed
from torch import Tensor, nn

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import RANKS, Fields, by_pattern, rank_patterns, sizes_of, values
from peft_fuzz.methods.method import LayerAdapter, Limit, Method, dense
from peft_fuzz.networks.network import Kind, Layer

_EMBEDDING: Final = ("lora_embedding_A", "lora_embedding_B")
_OTHERS: Final = ("lora_A.weight", "lora_B.weight")
_KINDS: Final = frozenset[Kind](get_args(Kind))


def scaling(adapter: LayerAdapter) -> float:
    """Return alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA, with the layer's patterns.

    Hu et al., LoRA, arXiv:2106.09685, section 4.1; Kalajdzievski, arXiv:2312.03732.
    """
    settings, name = adapter.settings, adapter.layer_name
    rank = by_pattern(settings.get("rank_pattern"), name, settings["r"])
    alpha = by_pattern(settings.get("alpha_pattern"), name, settings["lora_alpha"])
    stable = settings.get("use_rslora", False)
    return float(alpha / (sqrt(rank) if stable else rank))


def low_rank_product(down: Tensor, up: Tensor, groups: int) -> Tensor:
    """Return B A as (outputs, inputs, *kernel); equation 3 of LoRA.

    A convolution's A has the kernel, its B is 1 x 1. B of a grouped convolution is grouped, A is
    not, so that the product is dense.
    """
    if up.shape[1] != down.shape[0]:
        up = dense(up, groups)
    product: Tensor = up.flatten(1) @ down.flatten(1)
    return product.reshape(up.shape[0], *down.shape[1:])


def rescaled(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Return m (W + s B A) / ||W + s B A||, a norm for each output.

    Liu et al., DoRA, arXiv:2402.09353, equation 5; section 4.3: for the gradient the norm is a
    constant. weight, delta: (outputs, inputs, *kernel).
    """
    direction = weight + delta
    each = (-1, *(1,) * (direction.dim() - 1))
    factor: Tensor = magnitude.reshape(-1) / direction.flatten(1).norm(dim=1).detach()
    return direction * factor.reshape(each)


def _layer(
    weight: Tensor, bias: Tensor | None, layer: Layer, adapters: Sequence[LayerAdapter]
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer with adapters; the updates of several are added."""
    base = m.as_rows(weight, layer.kind)
    deltas = []
    for adapter in adapters:
        scale = scaling(adapter)
        names = _EMBEDDING if layer.kind == "embedding" else _OTHERS
        down, up = (adapter.tensors[name] for name in names)
        delta = scale * low_rank_product(down, up, layer.groups)
        if layer.is_convolution and delta.shape != base.shape:
            base = dense(base, layer.groups)
        if adapter.settings.get("use_dora"):
            tensors = adapter.tensors
            magnitude = tensors.get("lora_magnitude_vector.weight")
            if magnitude is None:  # before peft 0.12
                magnitude = tensors["lora_magnitude_vector"]
            delta = rescaled(base, delta, magnitude) - base
        deltas.append(delta)
        if adapter.settings.get("lora_bias"):
            extra = scale * adapter.tensors["lora_B.bias"]
            bias = extra if bias is None else bias + extra
    total = base + sum(deltas) if deltas else base
    return m.as_rows(total, layer.kind), bias


def lora(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return W + s B A, and the bias + s b of `lora_bias`; for DoRA the rescaled weight.

    Several adapters of LoRA add their updates. Several of DoRA have no published formula: peft
    added their updates before 0.15, and has rescaled one adapter's weight by the next since then.
    """
    if len(adapters) > 1 and any(each.settings.get("use_dora") for each in adapters):
        return None
    if layer.kind == "attention":
        return _attention(base, layer, adapters)
    weight, bias = _layer(base.weight, getattr(base, "bias", None), layer, adapters)  # type: ignore[arg-type]
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _attention(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor]:
    """Return the projections of an attention: LoRA adapts the joint input and the output one."""
    linear = changed(layer, kind="linear")
    found: dict[str, Tensor] = {}
    for prefix, weight, bias in (
        ("", "in_proj_weight", "in_proj_bias"),
        ("out_proj.", "out_proj.weight", "out_proj.bias"),
    ):
        parts = [
            replace(
                each,
                tensors={
                    name.removeprefix(prefix): value
                    for name, value in each.tensors.items()
                    if name.startswith("out_proj.") == bool(prefix)
                },
            )
            for each in adapters
        ]
        own = dict(base.named_parameters())
        new, shift = _layer(own[weight], own.get(bias), linear, parts)
        found[weight] = new
        if shift is not None:
            found[bias] = shift
    return found


def lora_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count A x and B (A x); for DoRA also the product B A, which the norm needs.

    peft makes B A by sending an identity through A and B (for FSDP, as its source says).
    """
    rank: int = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    inputs, outputs = layer.fan_in, layer.outputs
    if layer.kind == "attention":
        # Four projections, each of one width. By thin products, or by making the new weight.
        return max(8 * rank * inputs * positions, 8 * rank * inputs * outputs) * 2
    if layer.kind == "embedding":
        thin = 2 * rank * outputs * positions
    else:
        thin = 2 * rank * (inputs + outputs) * positions
    if not settings.get("use_dora"):
        return thin
    norm = 2 * rank * outputs * inputs
    if layer.kind in {"linear", "transposed_linear"}:
        norm += 2 * rank * inputs * inputs
    return thin + norm


def _identity(settings: m.Settings) -> bool:
    """LoRA's B is zero at the start for True, gaussian and orthogonal's pairs; not for False.

    PiSSA and OLoRA subtract what they start with from the base weight.
    """
    return settings["init_lora_weights"] is not False


def _ranks(layers: Sequence[Layer]) -> list[int]:
    """Return ranks that all groups of the layers divide, also above a layer's size."""
    groups = lcm(*(layer.groups for layer in layers))
    return [rank * groups for rank in RANKS]


def draw_lora(layers: Sequence[Layer]) -> Fields:
    """Draw ranks, scales, starts and biases of LoRA and DoRA."""
    ranks = _ranks(layers)
    kinds = {layer.kind for layer in layers}
    inits: list[Any] = [False, "gaussian"]
    if kinds <= {"linear", "transposed_linear"}:
        inits += ["pissa", "pissa_niter_4", "olora", "orthogonal"]
    return Fields(
        always={"r": st.sampled_from(ranks)},
        sometimes={
            "lora_alpha": values(1, 2, 4, 16, 32),
            "lora_dropout": values(0.5, 0.1),
            "use_rslora": values(True),
            "init_lora_weights": st.sampled_from(inits),
            **({} if "embedding" in kinds else {"lora_bias": values(True)}),
            **rank_patterns(layers, ranks),
        },
        bias="lora_only",
        agree=lambda settings: _lora_together(settings, min(sizes_of(layers))),
    )


def _lora_together(settings: dict[str, Any], size: int) -> dict[str, Any]:
    """Keep to the documentation: lora_bias has plain starts only, and no DoRA.

    A start from the base weight has no more directions than the weight; orthogonal ones come in
    pairs.
    """
    start = settings.get("init_lora_weights", True)
    ranks = (settings["r"], *settings.get("rank_pattern", {}).values())
    if isinstance(start, str):
        odd = start == "orthogonal" and any(rank % 2 for rank in ranks)
        if odd or (start != "gaussian" and max(ranks) > size) or settings.get("lora_bias"):
            del settings["init_lora_weights"]
    if settings.get("use_dora"):
        settings.pop("lora_bias", None)
    return settings


LIMITS: Final = (
    Limit("rank is divisible by groups"),
    Limit(
        "Merging is not supported for _ConvNd layers with groups",
        error="NotImplementedError",
        stage="call",
    ),
    Limit("base layer has no bias", error="RuntimeError", stage="call"),
    Limit("lora_bias"),
    Limit("Only same embed for query/key/value|does not support"),
)

LORA: Final = Method(
    "lora",
    m.CONFIGS["lora"],
    draw_lora,
    kinds=_KINDS,
    abilities=m.MERGES | {"hot_swap"},
    formula=lora,
    flops=lora_flops,
    by_hand="with_lora",
    trains=("lora_",),
    limits=LIMITS,
    identity=_identity,
    same_base=lambda settings: not m.moves_base(settings),
)
DORA: Final = replace(
    LORA,
    name="dora",
    config=m.CONFIGS["dora"],
    kinds=_KINDS - {"attention"},
    by_hand="with_dora",
    fixed={"use_dora": True},
    runs="lora",
)


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
            "init_lora_weights": values(False),
            "orth_reg_weight": values(0.1),
        },
        bias="lora_only",
    )


ADALORA: Final = Method(
    "adalora",
    m.CONFIGS["adalora"],
    draw_adalora,
    kinds=m.DENSE | {"conv2d"},
    abilities=frozenset({"merge", "unmerge"}),
    formula=adalora,
    flops=adalora_flops,
    by_hand="added",
    trains=("lora_A", "lora_B", "lora_E"),
    limits=(Limit("supports only 1 trainable adapter", stage=None),),
    identity=lambda settings: bool(settings["init_lora_weights"]),
)
