"""VeRA, FourierFT and HiRA: an update made of shared, sparse or multiplied entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import CONVOLUTIONS, as_rows, fan_in, layer_flops
from peft_fuzz.methods.method import LayerAdapter, Limit, Method
from peft_fuzz.methods.patterns import by_pattern

if TYPE_CHECKING:
    from torch import Tensor, nn


def vera(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + diag(b) B diag(d) A; Kopiczko et al., VeRA, arXiv:2310.11454, equation 2.

    A and B are shared by all layers, cut to the layer's size; with the adapter's rank if another
    adapter's is larger.
    """
    weight = as_rows(base.weight, layer.kind)  # type: ignore[arg-type]
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
    import torch

    weight = as_rows(base.weight, layer.kind)  # type: ignore[arg-type]
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
    import torch

    steps = torch.arange(size, dtype=torch.float64)
    return torch.exp(2j * torch.pi * torch.outer(steps, steps) / size)


def hira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + W o (B A); Huang et al., HiRA, ICLR 2025 (openreview TwJrTz9cRS)."""
    weight = as_rows(base.weight, layer.kind)  # type: ignore[arg-type]
    total = weight
    middle = "embedding_" if layer.kind == "embedding" else ""
    for adapter in adapters:
        up, down = (adapter.tensors[f"hira_{middle}{which}"] for which in ("B", "A"))
        product = up.flatten(1) @ down.flatten(1)
        total = total + weight * product.reshape(weight.shape)
    return {"weight": as_rows(total, layer.kind)}


def vera_flops(layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool) -> int:
    """Count two thin products."""
    del training
    return int(2 * settings["r"] * (layer.inputs + layer.outputs) * positions)


def fourierft_flops(
    layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool
) -> int:
    """Count the update's own product; a fast transform multiplies no matrices."""
    del settings, training
    return layer_flops(layer, positions)


def hira_flops(layer: Layer, settings: Mapping[str, Any], *, positions: int, training: bool) -> int:
    """Count B A in full size, and the update's own product of a linear layer.

    A convolution that runs twice is docs/findings/peft-second-convolution.md.
    """
    del training
    rank = by_pattern(settings.get("rank_pattern"), layer.name, settings["r"])
    second = 0 if layer.kind in CONVOLUTIONS else layer_flops(layer, positions)
    return int(2 * rank * fan_in(layer) * layer.outputs) + second


_ABILITIES: Final = frozenset[Any]({"merge", "several_active", "unmerge"})

VERA: Final = Method(
    name="vera",
    config="VeraConfig",
    kinds=frozenset[Any]({"linear", "transposed_linear"}),
    abilities=_ABILITIES,
    source="Kopiczko et al., arXiv:2310.11454, equation 2",
    formula=vera,
    trains=("vera_lambda_",),
    flops=vera_flops,
    limits=(
        Limit(
            message="or greater is required|PRNG key|projection_prng_key|save_projection",
            source="error text of peft.tuners.vera: all adapters share the projections",
            error="ValueError",
            stage="wrap",
        ),
    ),
    identity=lambda settings: bool(settings["init_weights"]),
    random=lambda settings: bool(settings["vera_dropout"]),
)
FOURIERFT: Final = Method(
    name="fourierft",
    config="FourierFTConfig",
    kinds=frozenset[Any]({"linear", "transposed_linear"}),
    abilities=_ABILITIES,
    source="Gao et al., arXiv:2405.03003, equations 2 to 4",
    formula=fourierft,
    trains=("fourierft_spectrum",),
    flops=fourierft_flops,
    limits=(
        Limit(
            message="`n_frequency` should be less than or equal",
            source="error text of peft.tuners.fourierft.layer",
            error="ValueError",
            stage="wrap",
        ),
    ),
    identity=lambda settings: bool(settings["init_weights"]),
)
HIRA: Final = Method(
    name="hira",
    config="HiraConfig",
    kinds=frozenset[Any](
        {"conv1d", "conv2d", "conv3d", "embedding", "linear", "transposed_linear"}
    ),
    abilities=_ABILITIES,
    source="Huang et al., HiRA, ICLR 2025 (openreview TwJrTz9cRS)",
    formula=hira,
    trains=("hira_",),
    flops=hira_flops,
    limits=(
        Limit(
            message="HiRA does not support .* layers with groups > 1",
            source="error text of peft.tuners.hira.layer",
            error="NotImplementedError",
            stage="wrap",
        ),
    ),
    identity=lambda settings: bool(settings["init_weights"]),
    random=lambda settings: bool(settings["hira_dropout"]),
)
