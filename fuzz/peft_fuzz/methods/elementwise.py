"""VeRA, FourierFT, HiRA, C3A, SHiRA, (IA)^3: shared, sparse or multiplied entries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import RANKS, Fields, by_pattern, common, pattern, values
from peft_fuzz.methods.method import LayerAdapter, Limit, Method
from peft_fuzz.networks.network import Layer


def vera(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + diag(b) B diag(d) A; Kopiczko et al., VeRA, arXiv:2310.11454, equation 2.

    A and B are shared by all layers, cut to the layer's size; with the adapter's rank if another
    adapter's is larger.
    """
    weight = m.rows_of(base, layer)
    for adapter in adapters:
        inner, outer = adapter.tensors["vera_lambda_d"], adapter.tensors["vera_lambda_b"]
        down = adapter.tensors["vera_A"][: len(inner), : layer.inputs]
        up = adapter.tensors["vera_B"][: layer.outputs, : len(inner)]
        weight = weight + outer[:, None] * up @ (inner[:, None] * down)
    return {"weight": m.as_rows(weight, layer.kind)}


def fourierft(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor]:
    """Return W + alpha Re(IDFT2(F)), F zero but for some entries.

    Gao et al., FourierFT, arXiv:2405.03003, equations 2 to 4. The transform is a product with two
    matrices of roots of unity; torch's inverse transform divides by their sizes.
    """
    weight = m.rows_of(base, layer)
    rows, columns = weight.shape
    for adapter in adapters:
        places, values = adapter.tensors["indices"], adapter.tensors["fourierft_spectrum"]
        spectrum = torch.zeros(rows, columns, dtype=torch.complex128)
        spectrum[places[0], places[1]] = values.to(torch.complex128)
        waves = _roots(rows) @ spectrum @ _roots(columns)
        weight = weight + adapter.settings["scaling"] * waves.real / (rows * columns)
    return {"weight": m.as_rows(weight, layer.kind)}


def _roots(size: int) -> Tensor:
    """Return exp(2 pi i j k / size) at row j and column k."""
    steps = torch.arange(size, dtype=torch.float64)
    return torch.exp(2j * torch.pi * torch.outer(steps, steps) / size)


def hira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + W o (B A); Huang et al., HiRA, ICLR 2025 (openreview TwJrTz9cRS)."""
    weight = m.rows_of(base, layer)
    total = weight
    middle = "embedding_" if layer.kind == "embedding" else ""
    for adapter in adapters:
        up, down = (adapter.tensors[f"hira_{middle}{which}"] for which in ("B", "A"))
        product = up.flatten(1) @ down.flatten(1)
        total = total + weight * product.reshape(weight.shape)
    return {"weight": m.as_rows(total, layer.kind)}


def shira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W with numbers added at fixed places; Bhardwaj et al., SHiRA, arXiv:2406.13175."""
    weight = m.as_rows(base.weight, layer.kind).clone()  # type: ignore[arg-type]
    for adapter in adapters:
        rows, columns = adapter.tensors["shira_indices"].long()
        values = adapter.tensors["shira_weight"]
        weight.index_put_((rows, columns), values, accumulate=True)
    return {"weight": m.as_rows(weight, layer.kind)}


def c3a(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + C / inputs, C of circulant blocks: entry (i, j) of a block is c[(j - i) mod b].

    Chen et al., C3A, arXiv:2407.19342; the division by the inputs is peft's.
    """
    weight: Tensor = base.weight  # type: ignore[assignment]
    for adapter in adapters:
        kernel = adapter.tensors["c3a_kernel"]  # (outputs / b, inputs / b, b)
        places = torch.arange(kernel.shape[-1])
        blocks = kernel[..., (places - places[:, None]) % kernel.shape[-1]]
        matrix = blocks.permute(0, 2, 1, 3).reshape(weight.shape)
        weight = weight + matrix / layer.inputs
    return {"weight": weight}


def vera_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count two thin products."""
    return int(2 * settings["r"] * (layer.inputs + layer.outputs) * positions)


def fourierft_flops(layer: Layer, _settings: m.Settings, positions: int) -> int:
    """Count the update's own product; a fast transform multiplies no matrices."""
    return layer.flops(positions)


def hira_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count B A in full size, and the update's own product of a linear layer.

    A convolution that runs twice is docs/findings/peft-second-convolution.py.
    """
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    second = 0 if layer.is_convolution else layer.flops(positions)
    return int(2 * rank * layer.fan_in * layer.outputs) + second


def draw_vera(_layers: Sequence[Layer]) -> Fields:
    """Draw the rank, and the projections that all adapters share."""
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "vera_dropout": values(0.5),
            "save_projection": values(False),
            "projection_prng_key": values(1),
            "init_weights": values(False),
            "d_initial": values(0.5),
        },
        bias="vera_only",
        shared=("projection_prng_key", "save_projection"),
    )


def draw_fourierft(layers: Sequence[Layer]) -> Fields:
    """Draw how many entries of the spectrum there are."""
    most = min(layer.inputs * layer.outputs for layer in layers)
    numbers = st.integers(1, most)
    return Fields(
        always={"n_frequency": numbers},
        sometimes={
            "scaling": values(10.0),
            "random_loc_seed": values(1),
            "init_weights": values(True),
            "n_frequency_pattern": pattern(layers, numbers),
        },
        bias="fourier_only",
    )


def draw_hira(layers: Sequence[Layer]) -> Fields:
    """Draw the rank and start."""
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "hira_dropout": values(0.5),
            "init_weights": st.sampled_from(("gaussian", False)),
            "rank_pattern": pattern(layers, values(*RANKS)),
        },
    )


def _c3a(layers: Sequence[Layer]) -> Fields:
    sizes = st.sampled_from(common(layers))
    starts = values("xavier_uniform", "gaussian", "kaiming_uniform")
    return Fields(
        always={"block_size": sizes, "init_weights": values(True)},
        sometimes={"init_weights": starts, "block_size_pattern": pattern(layers, sizes)},
        bias="c3a_only",
    )


def _shira(layers: Sequence[Layer]) -> Fields:
    most = min(layer.inputs * layer.outputs // (layer.inputs + layer.outputs) for layer in layers)
    return Fields(
        always={"r": st.sampled_from([rank for rank in (1, 2) if rank <= most] or [1])},
        sometimes={"random_seed": values(1), "init_weights": values(False)},
    )


VERA: Final = Method(
    "vera",
    "VeraConfig",
    draw_vera,
    kinds=m.DENSE,
    formula=vera,
    flops=vera_flops,
    by_hand="with_vera",
    trains=("vera_lambda_",),
    limits=(Limit("or greater is required|PRNG key|projection_prng_key|save_projection"),),
)
FOURIERFT: Final = Method(
    "fourierft",
    "FourierFTConfig",
    draw_fourierft,
    kinds=m.DENSE,
    formula=fourierft,
    flops=fourierft_flops,
    trains=("fourierft_spectrum",),
    limits=(Limit("`n_frequency` should be less than or equal"),),
)
HIRA: Final = Method(
    "hira",
    m.CONFIGS["hira"],
    draw_hira,
    kinds=m.DENSE | {"conv1d", "conv2d", "conv3d", "embedding"},
    formula=hira,
    flops=hira_flops,
    by_hand="multiplied",
    trains=("hira_",),
    limits=(m.no_groups("HiRA"),),
)
C3A: Final = Method(
    "c3a",
    "C3AConfig",
    _c3a,
    formula=c3a,
    by_hand="added",
    trains=("c3a_kernel",),
    identity=m.starts_true,
)
SHIRA: Final = Method(
    "shira", "ShiraConfig", _shira, formula=shira, by_hand="added", trains=("shira_weight",)
)


def is_feedforward(settings: m.Settings, layer: str) -> bool:
    """Return whether `feedforward_modules` names a layer: its inputs are scaled then."""
    named = settings.get("feedforward_modules") or ()
    if isinstance(named, str):
        return re.fullmatch(named, layer) is not None
    return any(layer == name or layer.endswith(name) for name in named)


def ia3(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return l o W and l o b, or W with its inputs scaled; None if l has the other's size.

    Liu et al., arXiv:2205.05638, section 3.3: l o (W x + b) for keys and values, W (l o x) + b for
    the second layer of a feed-forward block.
    """
    weight = m.rows_of(base, layer)
    bias: Tensor | None = getattr(base, "bias", None)
    ones = (1,) * (weight.dim() - 2)
    for adapter in adapters:
        factor = adapter.tensors["ia3_l"].flatten()
        forward = is_feedforward(adapter.settings, adapter.layer_name)
        if factor.numel() != (layer.inputs if forward else layer.outputs):
            return None
        if forward:
            rows = layer.outputs // layer.groups
            # Each group of outputs sees its own inputs.
            each = factor.reshape(layer.groups, 1, -1).expand(-1, rows, -1)
            weight = weight * each.reshape(layer.outputs, -1, *ones)
        else:
            weight = weight * factor.reshape(-1, 1, *ones)
            bias = None if bias is None else bias * factor
    found = {"weight": m.as_rows(weight, layer.kind)}
    return found if bias is None else {**found, "bias": bias}


def ia3_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count nothing: inputs or outputs are scaled entry by entry, and no matrix is multiplied."""
    del layer, settings, positions
    return 0


def draw_ia3(layers: Sequence[Layer]) -> Fields:
    """Draw which layers have their inputs scaled."""
    names = [layer.name for layer in layers]
    return Fields(
        always={"feedforward_modules": st.lists(st.sampled_from(names), unique=True)},
        sometimes={"init_ia3_weights": values(False)},
    )


IA3: Final = Method(
    "ia3",
    m.CONFIGS["ia3"],
    draw_ia3,
    kinds=m.DENSE | {"conv2d", "conv3d"},
    formula=ia3,
    flops=ia3_flops,
    by_hand="scaled_by_hand",
    trains=("ia3_l",),
    identity=lambda settings: bool(settings["init_ia3_weights"]),
)
