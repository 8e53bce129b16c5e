"""Name and shape of each parameter that an adapter adds to a layer, by the method's definition.

They follow only from the papers' definitions and the layer, without the library that wraps it, so
they can check the library. Each function takes layer and rank; names are relative to the layer.
"""

from __future__ import annotations

from math import isqrt, prod
from typing import TYPE_CHECKING, Any, Final

from peft_regress.catalogue.methods.method import Shapes

if TYPE_CHECKING:
    from torch import nn

ADAPTER: Final = "default"
"""The adapter's name in peft, part of the names of its parameters."""

BLOCK_SIZE: Final = 4
"""The size of the orthogonal blocks of OFT and BOFT, which have no rank."""


def _sizes(layer: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    """Return outputs, inputs of one group, and the kernel, which is () for a linear layer."""
    weight: Any = layer.weight
    out, inner, *kernel = weight.shape
    return out, inner, tuple(kernel)


def lora_shapes(layer: nn.Module, rank: int) -> Shapes:
    """LoRA: B A, the kernel of a convolution in A; of a grouped one A has no groups, and B has."""
    out, inner, kernel = _sizes(layer)
    groups: int = getattr(layer, "groups", 1)
    return {
        f"lora_A.{ADAPTER}.weight": (rank, groups * inner, *kernel),
        f"lora_B.{ADAPTER}.weight": (out, rank // groups, *(1 for _ in kernel)),
    }


def factored_shapes(layer: nn.Module, rank: int) -> Shapes:
    """PiSSA and OLoRA: as LoRA, from a factorization of the weight, whose rank is a limit."""
    out, inner, kernel = _sizes(layer)
    return lora_shapes(layer, min(rank, out, inner * prod(kernel)))


def lora_fa_shapes(layer: nn.Module, rank: int) -> Shapes:
    """LoRA-FA: as LoRA, with A frozen at its draw."""
    return {name: shape for name, shape in lora_shapes(layer, rank).items() if "lora_B" in name}


def dora_shapes(layer: nn.Module, rank: int) -> Shapes:
    """DoRA: LoRA and one magnitude per output channel, shaped to broadcast over the weight."""
    out, _, kernel = _sizes(layer)
    magnitude = (1, out, *(1 for _ in kernel)) if kernel else (out,)
    return {**lora_shapes(layer, rank), f"lora_magnitude_vector.{ADAPTER}.weight": magnitude}


def adalora_shapes(layer: nn.Module, rank: int) -> Shapes:
    """AdaLoRA: P diag(E) Q of the initial rank, a convolution seen as (out, in * kernel)."""
    out, inner, kernel = _sizes(layer)
    return {
        f"lora_A.{ADAPTER}": (rank, inner * prod(kernel)),
        f"lora_B.{ADAPTER}": (out, rank),
        f"lora_E.{ADAPTER}": (rank, 1),
    }


def hira_shapes(layer: nn.Module, rank: int) -> Shapes:
    """HiRA: W * (B A), shaped as LoRA."""
    out, inner, kernel = _sizes(layer)
    return {
        f"hira_A.{ADAPTER}": (rank, inner, *kernel),
        f"hira_B.{ADAPTER}": (out, rank, *(1 for _ in kernel)),
    }


def loha_shapes(layer: nn.Module, rank: int, *, tucker: bool = False) -> Shapes:
    """LoHa: (W1a W1b) * (W2a W2b), a convolution seen as (out, in * kernel).

    With `tucker` and a kernel larger than 1, it is (out, in, kernel), by Tucker's decomposition.
    """
    out, inner, kernel = _sizes(layer)
    shapes: Shapes = {}
    for factor in ("1", "2"):
        if tucker and prod(kernel) > 1:
            shapes[f"hada_t{factor}.{ADAPTER}"] = (rank, rank, *kernel)
            shapes[f"hada_w{factor}_a.{ADAPTER}"] = (rank, out)
            shapes[f"hada_w{factor}_b.{ADAPTER}"] = (rank, inner)
        else:
            shapes[f"hada_w{factor}_a.{ADAPTER}"] = (out, rank)
            shapes[f"hada_w{factor}_b.{ADAPTER}"] = (rank, inner * prod(kernel))
    return shapes


def lokr_shapes(layer: nn.Module, rank: int, *, tucker: bool = False) -> Shapes:
    """LoKr: W1 (x) W2, both sides split into factors as close to their square root as possible.

    If the rank is below half of its larger side, W2 is the product of two factors; with `tucker`
    and a kernel larger than 1, of three by Tucker's decomposition.
    """
    out, inner, kernel = _sizes(layer)
    out_1, out_2 = _near_square(out)
    in_1, in_2 = _near_square(inner)
    shapes: Shapes = {f"lokr_w1.{ADAPTER}": (out_1, in_1)}
    if 2 * rank < max(out_2, in_2) and tucker and prod(kernel) > 1:
        shapes[f"lokr_t2.{ADAPTER}"] = (rank, rank, *kernel)
        shapes[f"lokr_w2_a.{ADAPTER}"] = (rank, out_2)
        shapes[f"lokr_w2_b.{ADAPTER}"] = (rank, in_2)
    elif 2 * rank < max(out_2, in_2):
        shapes[f"lokr_w2_a.{ADAPTER}"] = (out_2, rank)
        shapes[f"lokr_w2_b.{ADAPTER}"] = (rank, in_2 * prod(kernel))
    else:
        shapes[f"lokr_w2.{ADAPTER}"] = (out_2, in_2, *kernel)
    return shapes


def _near_square(number: int) -> tuple[int, int]:
    smaller = next(m for m in range(isqrt(number), 0, -1) if number % m == 0)
    return smaller, number // smaller


def ia3_shapes(layer: nn.Module, _rank: int) -> Shapes:
    """IA3: one factor per output."""
    out, _, kernel = _sizes(layer)
    return {f"ia3_l.{ADAPTER}": (1, out, *(1 for _ in kernel)) if kernel else (out, 1)}


def oft_shapes(layer: nn.Module, _rank: int) -> Shapes:
    """OFT: the upper triangle of each skew-symmetric block on the diagonal."""
    _, inner, kernel = _sizes(layer)
    blocks = inner * prod(kernel) // BLOCK_SIZE
    return {f"oft_R.{ADAPTER}.weight": (blocks, BLOCK_SIZE * (BLOCK_SIZE - 1) // 2)}


def boft_shapes(layer: nn.Module, _rank: int) -> Shapes:
    """BOFT with one butterfly factor: whole blocks, and one scale per output."""
    out, inner, kernel = _sizes(layer)
    blocks = inner * prod(kernel) // BLOCK_SIZE
    return {
        f"boft_R.{ADAPTER}": (1, blocks, BLOCK_SIZE, BLOCK_SIZE),
        f"boft_s.{ADAPTER}": (1, out) if kernel else (out, 1),
    }


def hra_shapes(layer: nn.Module, rank: int) -> Shapes:
    """HRA: one vector per Householder reflection, a convolution seen as (out, in * kernel)."""
    _, inner, kernel = _sizes(layer)
    return {f"hra_u.{ADAPTER}": (inner * prod(kernel), rank)}


def norm_shapes(layer: nn.Module, _rank: int) -> Shapes:
    """Norm tuning: a trained copy of the layer's own weight and bias."""
    return {
        f"ln_tuning_layers.{ADAPTER}.{name}": tuple(parameter.shape)
        for name, parameter in layer.named_parameters(recurse=False)
    }
