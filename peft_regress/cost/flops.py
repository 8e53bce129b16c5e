"""How many FLOPs an operator takes, by formula.

One multiply-add is 2 FLOPs. Counted is matrix work: convolutions, matrix products, attention.
The additions of a bias, batch normalization, activations, pooling, reductions and FFTs are not.

Two counters share the formulas. The first is right. The second, "the paper's", reports what
`torch.utils.flop_counter.FlopCounterMode` reports in torch 2.6 to 2.13, whose weight gradient of a
grouped convolution comes out `groups` times too large; published figures have the same error (what
theirs count besides is in docs/paper.md), so it is kept here, where a fix upstream cannot move it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from peft_regress.errors import PeftRegressError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = [
    "UncountedOperatorError",
    "convolution_flops",
    "does_matrix_work",
    "formula_of",
    "is_svd",
    "paper_formula_of",
    "place_of",
    "register_flop_formula",
]

Formula = TypeVar("Formula", bound="Callable[..., int]")

_FORMULAS: dict[Any, Callable[..., int]] = {}
_PAPER_FORMULAS: dict[Any, Callable[..., int]] = {}

aten = torch.ops.aten


class UncountedOperatorError(PeftRegressError):
    """An operator that does matrix work, or may, and for which no formula is registered."""

    def __init__(self, *, operator: str, module: str, phase: str, remedy: str = "") -> None:
        self.operator = operator
        self.module = module
        self.phase = phase
        remedy = remedy or (
            "Register one: @peft_regress.cost.register_flop_formula("
            f"torch.ops.{operator}) above a function (*args, out, **kwargs) -> int that gets the "
            "operator's own arguments and its result; return 0 if it does no matrix work."
        )
        super().__init__(
            f"no FLOP formula for {operator}, reached in {place_of(phase, module)}; counting it as "
            f"0 would hide work. {remedy}"
        )


def place_of(phase: str, module: str) -> str:
    """Say where in a step something happens, for a message."""
    where = f"module {module!r}" if module else "the model itself"
    known = {"forward": f"the forward pass of {where}", "backward": f"the backward pass of {where}"}
    return known.get(phase, f"the update of {where}")


def register_flop_formula(*operators: Any) -> Callable[[Formula], Formula]:
    """Register a formula, so that operators that the built-in ones do not know can be counted.

    The formula is called as `formula(*args, out=result, **kwargs)` and returns FLOPs. Operators
    are packets, such as `torch.ops.aten.mm`. The paper's counter does not see it, since torch's
    does not.

    Raises:
        PeftRegressError: one of the operators has a formula already.
    """
    return _registrar(_FORMULAS, operators)


def _paper(*operators: Any) -> Callable[[Formula], Formula]:
    return _registrar(_PAPER_FORMULAS, operators)


def _registrar(
    registry: dict[Any, Callable[..., int]], operators: Sequence[Any]
) -> Callable[[Formula], Formula]:
    def register(formula: Formula) -> Formula:
        for operator in operators:
            if operator in registry:
                message = f"{operator} has a FLOP formula already: {registry[operator].__name__}"
                raise PeftRegressError(message)
        registry.update(dict.fromkeys(operators, formula))
        return formula

    return register


def formula_of(packet: Any) -> Callable[..., int] | None:
    """Look up the correct formula of an operator packet; None where it has none."""
    return _FORMULAS.get(packet)


def paper_formula_of(packet: Any) -> Callable[..., int] | None:
    """Look up what torch's own counter would apply to a packet; None where it counts nothing."""
    return _PAPER_FORMULAS.get(packet)


# --- Matrix products ------------------------------------------------------------------------------
# (m, k) @ (k, n): each of the m*n results is a sum of k products, so m*n*k multiply-adds.


@_paper(aten.mm)
@register_flop_formula(aten.mm)
def _mm(a: Tensor, b: Tensor, **_: Any) -> int:
    m, k = a.shape
    return 2 * m * k * b.shape[1]


@_paper(aten.addmm)
@register_flop_formula(aten.addmm, aten.addmm_, aten._addmm_activation)  # noqa: SLF001
def _addmm(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return _mm(a, b)


@_paper(aten.bmm)
@register_flop_formula(aten.bmm)
def _bmm(a: Tensor, b: Tensor, **_: Any) -> int:
    batch, m, k = a.shape
    return 2 * batch * m * k * b.shape[2]


@_paper(aten.baddbmm)
@register_flop_formula(aten.baddbmm, aten.baddbmm_, aten.addbmm, aten.addbmm_)
def _baddbmm(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return _bmm(a, b)


# (m, n) @ (n,) and the outer product (m,) x (n,): m*n multiply-adds. torch's counter has neither.


@register_flop_formula(aten.mv)
def _mv(matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@register_flop_formula(aten.addmv, aten.addmv_)
def _addmv(_bias: Tensor, matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@register_flop_formula(aten.addr, aten.addr_)
def _addr(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.numel()


@register_flop_formula(aten.dot, aten.vdot)
def _dot(a: Tensor, _b: Tensor, **_: Any) -> int:
    return 2 * a.numel()


# --- Convolutions ---------------------------------------------------------------------------------


def convolution_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    transposed: bool = False,
) -> int:
    """Count the FLOPs of a convolution, padding multiplied like any other input.

    Each weight meets every position that the kernel is laid on, once per sample: output positions
    for a convolution, input positions for a transposed one. Groups need no factor: the weight,
    (out, in / groups, *kernel) or transposed (in, out / groups, *kernel), is already the smaller.

    Args:
        input_shape: (batch, in channels, *spatial).
        weight_shape: as above.
        output_shape: (batch, out channels, *spatial).
        transposed: whether the convolution is a transposed one.

    Returns:
        FLOPs for the whole batch.
    """
    positions = prod((input_shape if transposed else output_shape)[2:])
    return 2 * input_shape[0] * positions * prod(weight_shape)


@_paper(aten.convolution)
@register_flop_formula(aten.convolution)
def _convolution(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    _stride: Sequence[int],
    _padding: Sequence[int],
    _dilation: Sequence[int],
    transposed: bool,  # noqa: FBT001 - aten passes it by position
    *_args: Any,
    out: Tensor,
    **_: Any,
) -> int:
    return convolution_flops(x.shape, weight.shape, out.shape, transposed=transposed)


# Every product x[i] * w[j] that adds to y[k] in the forward pass comes back once in the gradient of
# x[i], as w[j] * dy[k], and once in that of w[j], as x[i] * dy[k]: each costs one forward pass.


@register_flop_formula(aten.convolution_backward)
def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    transposed, output_mask = args[4], args[7]
    wanted = int(output_mask[0]) + int(output_mask[1])  # the third entry is the bias
    return wanted * convolution_flops(x.shape, weight.shape, grad.shape, transposed=transposed)


# torch 2.6 to 2.13 takes the weight gradient for a full convolution of all input channels with all
# output channels: groups times the products there are.


@_paper(aten.convolution_backward)
def _paper_convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any
) -> int:
    transposed, groups, output_mask = args[4], args[6], args[7]
    wanted = int(output_mask[0]) + int(groups) * int(output_mask[1])
    once = convolution_flops(x.shape, weight.shape, grad.shape, transposed=transposed)
    return wanted * once


# --- Attention ------------------------------------------------------------------------------------
# query (batch, heads, s, d), key (.., t, d), value (.., t, e). Scores q @ k^T: s*t*d multiply-adds
# a head, scores @ v: s*t*e. A causal mask is not taken off. The kernel for CPUs stands apart since
# torch's counter does not know it.


@_paper(
    aten._scaled_dot_product_flash_attention,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention,  # noqa: SLF001
    aten._scaled_dot_product_cudnn_attention,  # noqa: SLF001
)
@register_flop_formula(
    aten._scaled_dot_product_flash_attention,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention,  # noqa: SLF001
    aten._scaled_dot_product_cudnn_attention,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_for_cpu,  # noqa: SLF001
)
def _attention(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_: Any) -> int:
    score_count = query.shape[:-1].numel() * key.shape[-2]
    return 2 * score_count * (query.shape[-1] + value.shape[-1])


# The scores are computed anew (d); then grad scores = dy @ v^T (e), grad v = scores^T @ dy (e),
# grad q = grad scores @ k (d), grad k = grad scores^T @ q (d).


@_paper(
    aten._scaled_dot_product_flash_attention_backward,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention_backward,  # noqa: SLF001
    aten._scaled_dot_product_cudnn_attention_backward,  # noqa: SLF001
)
@register_flop_formula(
    aten._scaled_dot_product_flash_attention_backward,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention_backward,  # noqa: SLF001
    aten._scaled_dot_product_cudnn_attention_backward,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_for_cpu_backward,  # noqa: SLF001
)
def _attention_backward(
    _grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_: Any
) -> int:
    score_count = query.shape[:-1].numel() * key.shape[-2]
    return 2 * score_count * (3 * query.shape[-1] + 2 * value.shape[-1])


# --- Singular value decomposition -----------------------------------------------------------------
# Thin U, S and V of an (m, n) matrix, m >= n: 6 m n^2 + 20 n^3 (R-SVD; Golub and Van Loan, Matrix
# Computations, 4th edition, figure 8.6.1). An estimate: the iteration count depends on the values.


@register_flop_formula(aten._linalg_svd)  # noqa: SLF001
def _svd(matrix: Tensor, *_args: Any, **_: Any) -> int:
    n, m = sorted(matrix.shape[-2:])
    return int(matrix.shape[:-2].numel() * (6 * m * n**2 + 20 * n**3))


# --- Linear systems -------------------------------------------------------------------------------
# LU of an (n, n) matrix: for k = n-1 ... 1 below a pivot, k divisions and k^2 multiply-adds, so
# n (n - 1) / 2 + n (n - 1) (2n - 1) / 3 = (4n^3 - 3n^2 - n) / 6. Then for each of k right-hand
# sides n (n - 1) FLOPs with the unit triangle and n^2 with the other, whose diagonal divides.


def _lu(n: int) -> int:
    return (4 * n**3 - 3 * n**2 - n) // 6


def _substitutions(n: int) -> int:
    return 2 * n**2 - n


@register_flop_formula(aten._linalg_solve_ex)  # noqa: SLF001
def _solve(matrix: Tensor, *_args: Any, out: Any, **_: Any) -> int:
    n = matrix.shape[-1]
    solution = out[0]  # (..., n, k), or (..., n) where the right-hand sides are vectors
    batch = matrix.shape[:-2].numel()
    return int(batch * _lu(n) + solution.numel() // n * _substitutions(n))


@register_flop_formula(aten.linalg_lu_solve)
def _lu_solve(factors: Tensor, *_args: Any, out: Tensor, **_: Any) -> int:
    n = factors.shape[-1]
    return out.numel() // n * _substitutions(n)


# The pseudoinverse is computed from the SVD: with V and U (k columns each), V diag(1 / s) U^T.


@register_flop_formula(aten.linalg_pinv)
def _pseudoinverse(matrix: Tensor, *_args: Any, **_: Any) -> int:
    m, n = matrix.shape[-2:]
    product = 2 * m * n * min(m, n)
    return _svd(matrix) + matrix.shape[:-2].numel() * product


def is_svd(packet: Any) -> bool:
    """Tell GaLore's projection apart from the rest of an optimizer's step."""
    return packet is aten._linalg_svd  # noqa: SLF001


# --- Operators that must not pass for free --------------------------------------------------------

# By the words of a name rather than a list of names, so that a kernel that a new release adds, such
# as another fused convolution, stops the count rather than vanishing from it.
# fmt: off
_MATRIX_WORDS = frozenset({
    "mm", "bmm", "smm", "hspmm", "sspaddmm", "addmm", "addbmm", "baddbmm", "addmv", "mv", "addr",
    "ger", "dot", "vdot", "matmul", "einsum", "linear", "bilinear", "trilinear", "conv", "conv1d",
    "conv2d", "conv3d", "convolution", "tbc", "lstm", "gru", "rnn", "attention", "transformer",
    "cdist", "pdist", "linalg", "svd", "qr", "geqrf", "orgqr", "ormqr", "cholesky", "lu", "solve",
    "quantized", "dyn", "sparse",
})
_NO_MATRIX_WORK = frozenset({
    "linalg_vector_norm", "linalg_cross", "linalg_diagonal", "_linalg_check_errors",
    "linalg__powsum", "lu_unpack", "_sparse_softmax", "_sparse_log_softmax", "sparse_dim",
})
# fmt: on
_KNOWN_NAMESPACES = frozenset({"aten", "prim", "prims", "profiler"})


def does_matrix_work(packet_name: str) -> bool:
    """Tell whether an operator without a formula must stop the count.

    True for names that say matrix work, and for everything outside torch's own namespaces: what a
    foreign kernel does cannot be known.

    Args:
        packet_name: namespace and name, such as "aten.convolution".
    """
    namespace, _, name = packet_name.partition(".")
    if namespace not in _KNOWN_NAMESPACES:
        return True
    return name not in _NO_MATRIX_WORK and not _MATRIX_WORDS.isdisjoint(name.split("_"))
