"""OFT, BOFT and HRA: an orthogonal matrix on the inputs of the weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd, isqrt
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import Fields, values
from peft_fuzz.methods.method import LayerAdapter, Limit, Method
from peft_fuzz.networks.network import Layer

_MOST_HRA: Final = 4
_NEUMANN_TERMS: Final = 4
"""From so many on, peft's series is that of the paper; with 2 and 3 it is another one."""


def _cayley(skew: Tensor) -> Tensor:
    """Return (I - Q)(I + Q)^-1 for each skew-symmetric block.

    Qiu et al., OFT, arXiv:2306.07280, with the sign of Q that peft has.
    """
    one = torch.eye(skew.shape[-1], dtype=skew.dtype)
    rotation: Tensor = (one - skew) @ torch.linalg.inv(one + skew)
    return rotation


def _cayley_neumann(skew: Tensor, terms: int) -> Tensor:
    """Return (I + Q)(I + Q + Q^2 + ...), cut off: I + 2 Q + 2 Q^2 + ... + Q^(terms - 1).

    Qiu et al., OFTv2, arXiv:2506.19847. Against the exact form Q has the other sign.
    """
    total = torch.eye(skew.shape[-1], dtype=skew.dtype).expand(skew.shape).clone()
    power = total.clone()
    for term in range(1, terms):
        power = power @ skew
        total = total + (1 if term == terms - 1 else 2) * power
    return total


def _block_diagonal(blocks: Tensor, size: int) -> Tensor:
    """Return blocks (count, b, b) on the diagonal of (size, size), one shared block repeated."""
    count = size // blocks.shape[-1]
    matrix: Tensor = torch.block_diag(*blocks.expand(count, -1, -1))  # type: ignore[no-untyped-call]
    return matrix


def _oft_rotation(adapter: LayerAdapter, size: int) -> Tensor | None:
    """Return R of one adapter, or None where no published formula is carried out.

    The constrained form (coft) changes the stored parameters at each call.
    """
    settings = adapter.settings
    terms = settings.get("num_cayley_neumann_terms", 5)
    series = settings.get("use_cayley_neumann", False)
    if settings.get("coft") or (series and terms < _NEUMANN_TERMS):
        return None
    entries = adapter.tensors["oft_R.weight"]
    block = (1 + isqrt(1 + 8 * entries.shape[1])) // 2
    upper = torch.triu_indices(block, block, 1)
    skew = torch.zeros(entries.shape[0], block, block, dtype=entries.dtype)
    skew[:, upper[0], upper[1]] = entries
    skew = skew - skew.transpose(1, 2)
    return _block_diagonal(_cayley_neumann(skew, terms) if series else _cayley(skew), size)


def oft(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return W R^T: the inputs (of a convolution: of each patch) are rotated by x R.

    Of an embedding, the rows are rotated.
    """
    weight: Tensor = base.weight  # type: ignore[assignment]
    if layer.kind == "embedding":
        for adapter in adapters:
            renamed = {
                name.replace("oft_embedding_R", "oft_R"): value
                for name, value in adapter.tensors.items()
            }
            rotation = _oft_rotation(replace(adapter, tensors=renamed), layer.outputs)
            if rotation is None:
                return None
            weight = weight @ rotation
        return {"weight": weight}
    rows = m.dense(weight, layer.groups).flatten(1)
    # x R1 R2 W^T: the first adapter's rotation comes first, so it is nearest to x.
    for adapter in reversed(adapters):
        rotation = _oft_rotation(adapter, rows.shape[1])
        if rotation is None:
            return None
        rows = rows @ rotation.T
    return {"weight": rows.reshape(layer.outputs, -1, *weight.shape[2:])}


def boft(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return s o (W R^T), R block-diagonal; Liu et al., BOFT, arXiv:2311.06243.

    None for more than one butterfly factor, which needs CUDA: elsewhere peft takes one factor.
    """
    del layer
    weight: Tensor = base.weight  # type: ignore[assignment]
    rows = weight.flatten(1)
    for adapter in adapters:
        free = adapter.tensors["boft_R"]
        if free.shape[0] != 1:
            return None
        skew = 0.5 * (free[0] - free[0].transpose(1, 2))
        rows = rows @ _block_diagonal(_cayley(skew), rows.shape[1]).T
        rows = rows * adapter.tensors["boft_s"].reshape(-1, 1)
    return {"weight": rows.reshape(weight.shape)}


def _orthonormal(vectors: Tensor) -> Tensor:
    done: list[Tensor] = []
    for column in vectors.T:
        rest = column
        for other in done:
            rest = rest - (other @ rest) * other
        done.append(rest / rest.norm())
    return torch.stack(done, dim=1)


def hra(
    base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]
) -> Mapping[str, Tensor] | None:
    """Return W (I - 2 u1 u1') ... (I - 2 ur ur'), all u of length 1.

    Yuan et al., HRA, arXiv:2405.17484. None for vectors that cannot be made orthonormal, or are not
    finite.
    """
    del layer

    weight: Tensor = base.weight  # type: ignore[assignment]
    rows = weight.flatten(1)
    for adapter in adapters:
        vectors = adapter.tensors["hra_u"]
        if adapter.settings.get("apply_GS"):
            finite = bool(vectors.isfinite().all())
            if not finite or torch.linalg.matrix_rank(vectors) < vectors.shape[1]:
                return None
            vectors = _orthonormal(vectors)
        for column in vectors.T:
            unit = column / column.norm()
            rows = rows - 2 * torch.outer(rows @ unit, unit)
    return {"weight": rows.reshape(weight.shape)}


def _block_size(layer: Layer, settings: m.Settings, size: str, count: str) -> int:
    """Return the inputs of a block, of which the settings have the size or the number."""
    inputs = layer.rotated_inputs
    if settings.get(size):
        return min(int(settings[size]), inputs)
    return max(1, -(-inputs // max(1, int(settings.get(count) or 1))))


def _rotation_flops(layer: Layer, block: int, positions: int) -> int:
    """Count the rotation of the inputs or of the weight by blocks, and the making of the blocks.

    A block is made by a few products of its size; an inverse counts as two.
    """
    inputs = layer.rotated_inputs
    making = 2 * 8 * inputs * block * block
    return 2 * inputs * block * max(positions, layer.outputs) + making


def oft_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count a block-diagonal product."""
    block = _block_size(layer, settings, "oft_block_size", "r")
    if layer.kind == "embedding":
        positions = max(positions, layer.inputs)
    return _rotation_flops(layer, block, positions)


def boft_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count a block-diagonal product for each factor."""
    block = _block_size(layer, settings, "boft_block_size", "boft_block_num")
    factors = int(settings.get("boft_n_butterfly_factor", 1))
    return factors * _rotation_flops(layer, block, positions)


def hra_flops(layer: Layer, settings: m.Settings, positions: int) -> int:
    """Count r reflections of the inputs or of the weight, and the orthonormal vectors."""
    rank, inputs = int(settings["r"]), layer.fan_in
    return 4 * rank * inputs * max(positions, layer.outputs) + 4 * rank * rank * inputs


def _even(settings: m.Settings) -> bool:
    """HRA starts as pairs of equal reflections, which an odd rank does not have (a warning).

    Nor do vectors that are made orthonormal (the authors in huggingface/peft#1864).
    """
    return bool(settings["init_weights"]) and settings["r"] % 2 == 0 and not settings["apply_GS"]


def _blocks(layers: Sequence[Layer]) -> list[int]:
    """Return block sizes that divide all layers' inputs, or the smallest layer's size."""
    common = gcd(*(layer.rotated_inputs for layer in layers))
    found = [size for size in (2, 4, 3, 8, common) if size > 1 and common % size == 0]
    return found or [min(layer.rotated_inputs for layer in layers)]


def draw_hra(layers: Sequence[Layer]) -> Fields:
    """Draw reflections; an even number starts as the identity."""
    smallest = min(each.rotated_inputs for each in layers)
    return Fields(
        always={"r": values(2, 4, 1, 3)},
        sometimes={
            # More vectors than inputs cannot be orthonormal.
            **({"apply_GS": values(True)} if smallest > _MOST_HRA else {}),
            "init_weights": values(False),
        },
        bias="hra_only",
    )


def draw_boft(layers: Sequence[Layer]) -> Fields:
    """Draw blocks of a size."""
    return Fields(
        always={"boft_block_size": st.sampled_from(_blocks(layers))},
        sometimes={
            "boft_dropout": values(0.5),
            "boft_n_butterfly_factor": values(2),
            "init_weights": values(False),
        },
        bias="boft_only",
    )


def draw_oft(layers: Sequence[Layer]) -> Fields:
    """Draw blocks of a size; their number is 0 then.

    Not its constrained form (coft): each call moves its parameters, as its authors' code does, so
    that no act leaves them as they are.
    """
    return Fields(
        always={"oft_block_size": st.sampled_from(_blocks(layers)), "r": st.just(0)},
        sometimes={
            "module_dropout": values(0.5),
            "block_share": values(True),
            "init_weights": values(False),
            "use_cayley_neumann": values(True, False),
            "num_cayley_neumann_terms": values(6),
        },
        bias="oft_only",
    )


OFT: Final = Method(
    "oft",
    m.CONFIGS["oft"],
    draw_oft,
    kinds=frozenset({"conv2d", "embedding", "linear"}),
    formula=oft,
    flops=oft_flops,
    by_hand="rotated",
    trains=("oft_R", "oft_embedding_R", "oft_r", "oft_s"),
    limits=(Limit("dilation > 1 is not supported"),),
)
BOFT: Final = Method(
    "boft",
    m.CONFIGS["boft"],
    draw_boft,
    kinds=frozenset({"conv2d", "linear"}),
    formula=boft,
    flops=boft_flops,
    trains=("boft_R", "boft_s"),
    limits=(
        m.no_groups("BOFT"),
        Limit("must be divisible by|Invalid combination of|must be an even number"),
    ),
)
HRA: Final = Method(
    "hra",
    m.CONFIGS["hra"],
    draw_hra,
    kinds=frozenset({"conv2d", "linear"}),
    formula=hra,
    flops=hra_flops,
    trains=("hra_u",),
    limits=(m.no_groups("HRA"),),
    identity=_even,
)
