"""VeRA, FourierFT, HiRA, C3A and SHiRA: an update made of shared, sparse or multiplied entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods.fields import (
    RANKS,
    Fields,
    by_pattern,
    common,
    off,
    on,
    pattern,
    projected,
    values,
)
from peft_fuzz.methods.method import (
    CONFIGS,
    DENSE,
    LayerAdapter,
    Limit,
    Method,
    Settings,
    as_rows,
    no_groups,
    rows_of,
    starts_true,
)
from peft_fuzz.networks.network import Layer


def vera(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + diag(b) B diag(d) A; Kopiczko et al., VeRA, arXiv:2310.11454, equation 2.

    A and B are shared by all layers, cut to the layer's size; with the adapter's rank if another
    adapter's is larger.
    """
    weight = rows_of(base, layer)
    for adapter in adapters:
        inner, outer = adapter.tensors["vera_lambda_d"], adapter.tensors["vera_lambda_b"]
        down = adapter.tensors["vera_A"][: len(inner), : layer.inputs]
        up = adapter.tensors["vera_B"][: layer.outputs, : len(inner)]
        weight = weight + outer[:, None] * up @ (inner[:, None] * down)
    return {"weight": as_rows(weight, layer.kind)}


def fourierft(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor]:
    """Return W + alpha Re(IDFT2(F)), F zero but for some entries.

    Gao et al., FourierFT, arXiv:2405.03003, equations 2 to 4. The transform is a product with two
    matrices of roots of unity; torch's inverse transform divides by their sizes.
    """
    weight = rows_of(base, layer)
    rows, columns = weight.shape
    for adapter in adapters:
        places, values = adapter.tensors["indices"], adapter.tensors["fourierft_spectrum"]
        spectrum = torch.zeros(rows, columns, dtype=torch.complex128)
        spectrum[places[0], places[1]] = values.to(torch.complex128)
        waves = _roots(rows) @ spectrum @ _roots(columns)
        weight = weight + adapter.settings["scaling"] * waves.real / (rows * columns)
    return {"weight": as_rows(weight, layer.kind)}


def _roots(size: int) -> Tensor:
    """Return exp(2 pi i j k / size) at row j and column k."""
    steps = torch.arange(size, dtype=torch.float64)
    return torch.exp(2j * torch.pi * torch.outer(steps, steps) / size)


def hira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + W o (B A); Huang et al., HiRA, ICLR 2025 (openreview TwJrTz9cRS)."""
    weight = rows_of(base, layer)
    total = weight
    middle = "embedding_" if layer.kind == "embedding" else ""
    for adapter in adapters:
        up, down = (adapter.tensors[f"hira_{middle}{which}"] for which in ("B", "A"))
        product = up.flatten(1) @ down.flatten(1)
        total = total + weight * product.reshape(weight.shape)
    return {"weight": as_rows(total, layer.kind)}


def shira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W with numbers added at fixed places; Bhardwaj et al., SHiRA, arXiv:2406.13175."""
    weight = as_rows(base.weight, layer.kind).clone()  # type: ignore[arg-type]
    for adapter in adapters:
        rows, columns = adapter.tensors["shira_indices"].long()
        values = adapter.scale * adapter.tensors["shira_weight"]
        weight.index_put_((rows, columns), values, accumulate=True)
    return {"weight": as_rows(weight, layer.kind)}


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


def vera_flops(layer: Layer, settings: Settings, positions: int) -> int:
    """Count two thin products."""
    return int(2 * settings["r"] * (layer.inputs + layer.outputs) * positions)


def fourierft_flops(layer: Layer, _settings: Settings, positions: int) -> int:
    """Count the update's own product; a fast transform multiplies no matrices."""
    return layer.flops(positions)


def hira_flops(layer: Layer, settings: Settings, positions: int) -> int:
    """Count B A in full size, and the update's own product of a linear layer.

    A convolution that runs twice is docs/findings/peft-second-convolution.md.
    """
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    second = 0 if layer.is_convolution else layer.flops(positions)
    return int(2 * rank * layer.fan_in * layer.outputs) + second


def draw_fourierft(layers: Sequence[Layer]) -> Fields:
    """Draw how many entries of the spectrum there are."""
    most = min(layer.inputs * layer.outputs for layer in layers)
    numbers = st.integers(1, most)
    return Fields(
        always={"n_frequency": numbers},
        sometimes={
            "scaling": values(10.0),
            "random_loc_seed": values(1),
            "init_weights": on(),
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
        always={"block_size": sizes, "init_weights": on()},
        sometimes={"init_weights": starts, "block_size_pattern": pattern(layers, sizes)},
        bias="c3a_only",
    )


def _shira(layers: Sequence[Layer]) -> Fields:
    most = min(layer.inputs * layer.outputs // (layer.inputs + layer.outputs) for layer in layers)
    return Fields(
        always={"r": st.sampled_from([rank for rank in (1, 2) if rank <= most] or [1])},
        sometimes={"random_seed": values(1), "init_weights": off()},
    )


VERA: Final = Method(
    "vera",
    "VeraConfig",
    "Kopiczko et al., arXiv:2310.11454, equation 2",
    projected("vera_dropout", "vera_only", d_initial=values(0.5)),
    kinds=DENSE,
    formula=vera,
    flops=vera_flops,
    by_hand="with_vera",
    trains=("vera_lambda_",),
    limits=(
        Limit(
            "or greater is required|PRNG key|projection_prng_key|save_projection",
            "error text of peft.tuners.vera: all adapters share the projections",
        ),
    ),
)
FOURIERFT: Final = Method(
    "fourierft",
    "FourierFTConfig",
    "Gao et al., arXiv:2405.03003, equations 2 to 4",
    draw_fourierft,
    kinds=DENSE,
    formula=fourierft,
    flops=fourierft_flops,
    trains=("fourierft_spectrum",),
    limits=(
        Limit(
            "`n_frequency` should be less than or equal",
            "error text of peft.tuners.fourierft.layer",
        ),
    ),
)
HIRA: Final = Method(
    "hira",
    CONFIGS["hira"],
    "Huang et al., HiRA, ICLR 2025 (openreview TwJrTz9cRS)",
    draw_hira,
    kinds=DENSE | {"conv1d", "conv2d", "conv3d", "embedding"},
    formula=hira,
    flops=hira_flops,
    by_hand="multiplied",
    trains=("hira_",),
    limits=(no_groups("HiRA", "hira"),),
)
C3A: Final = Method(
    "c3a",
    "C3AConfig",
    "arXiv:2407.19342",
    _c3a,
    formula=c3a,
    by_hand="added",
    trains=("c3a_kernel",),
    identity=starts_true,
)
SHIRA: Final = Method(
    "shira",
    "ShiraConfig",
    "arXiv:2406.13175",
    _shira,
    formula=shira,
    by_hand="added",
    trains=("shira_weight",),
)
