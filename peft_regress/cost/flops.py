"""FLOP formulas of operators.

One multiply-add is 2 FLOPs, of complex numbers 8. Only matrix work counts: convolutions, matrix
products, attention. Adding a bias, batch normalization, activations, pooling, reductions and FFTs
do not count.

Two counters share the formulas. The first is correct. The second, the paper's, reports what
`torch.utils.flop_counter.FlopCounterMode` reports in torch 2.6 to 2.13: its weight gradient of a
grouped convolution is `groups` times too large. Published figures have this error (docs/paper.md
lists their other differences), so the formulas keep it, and a fix in torch cannot move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from peft_regress.cost.formulas import register_paper_formula, register_products

aten = torch.ops.aten


# --- Matrix products ------------------------------------------------------------------------------
# (m, k) @ (k, n): each of the m*n results sums k products, so m*n*k multiply-adds.


@register_paper_formula(aten.mm)
@register_products(aten.mm)
def _mm(a: Tensor, b: Tensor, **_: Any) -> int:
    m, k = a.shape
    return 2 * m * k * b.shape[1]


@register_paper_formula(aten.addmm)
@register_products(aten.addmm, aten.addmm_, aten._addmm_activation)  # noqa: SLF001
def _addmm(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return _mm(a, b)


@register_paper_formula(aten.bmm)
@register_products(aten.bmm)
def _bmm(a: Tensor, b: Tensor, **_: Any) -> int:
    batch, m, k = a.shape
    return 2 * batch * m * k * b.shape[2]


@register_paper_formula(aten.baddbmm)
@register_products(aten.baddbmm, aten.baddbmm_, aten.addbmm, aten.addbmm_)
def _baddbmm(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return _bmm(a, b)


# (m, n) @ (n,) and the outer product (m,) x (n,): m*n multiply-adds. torch's counter knows neither.


@register_products(aten.mv)
def _mv(matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@register_products(aten.addmv, aten.addmv_)
def _addmv(_bias: Tensor, matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@register_products(aten.addr, aten.addr_, one_dtype=False)  # they promote
def _addr(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.numel()


@register_products(aten.dot, aten.vdot)
def _dot(a: Tensor, _b: Tensor, **_: Any) -> int:
    return 2 * a.numel()


# The layer of `nn.Bilinear`, and its gradients: i1, i2 and i3 get axes of size 1, i1 is multiplied
# by i2 and the result by i3, and axes are summed: with the first pair if i3 lacks them. The kernel
# goes through one axis in a loop, which sums by adding. Without a sum a product is elementwise.
# torch's counter does not know it.


@register_products(aten._trilinear)  # noqa: SLF001
def _trilinear(
    i1: Tensor, i2: Tensor, i3: Tensor, *axes: Any, unroll_dim: int = 1, **_: Any
) -> int:
    *expanded, summed = axes
    first, second, third = map(_with_axes, (i1, i2, i3), expanded)
    in_a_product = set(summed) - {unroll_dim}
    in_first_pair = in_a_product & set(expanded[2])
    pair = [max(sizes) for sizes in zip(first, second, strict=True)]
    left = [1 if axis in in_first_pair else size for axis, size in enumerate(pair)]
    whole = [max(sizes) for sizes in zip(left, third, strict=True)]
    multiply_adds = prod(pair) if in_first_pair else 0
    if in_a_product - in_first_pair:
        multiply_adds += prod(whole)
    return 2 * multiply_adds


def _with_axes(tensor: Tensor, axes: Sequence[int]) -> list[int]:
    """Return the shape with an axis of size 1 at each of the given places, in ascending order."""
    shape = list(tensor.shape)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return shape


# One direction of a layer of an LSTM, x (t, n, i): each step multiplies x by (4h, i) and the last
# state, which is 0 at first, by (4h, h). The backward pass takes each product twice, for the
# gradients of both factors: it has no way to leave one out. torch's counter does not know it.


@register_products(aten.mkldnn_rnn_layer)
def _recurrent_layer(
    x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *_args: Any, **_: Any
) -> int:
    steps, batch, _width = x.shape
    return 2 * steps * batch * (input_weight.numel() + hidden_weight.numel())


@register_products(aten.mkldnn_rnn_layer_backward)
def _recurrent_layer_backward(
    x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *_args: Any, **_: Any
) -> int:
    return 2 * _recurrent_layer(x, input_weight, hidden_weight)


# Distances of (p, m) to (r, m) beyond 25 rows, by |a - b|^2 = |a|^2 - 2ab + |b|^2 as one product of
# (p, m + 2) with (m + 2, r): the norms and ones are columns. torch's counter does not know it.


@register_products(aten._euclidean_dist)  # noqa: SLF001
def _euclidean_distance(a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.shape[:-1].numel() * b.shape[-2] * (a.shape[-1] + 2)


# An affine grid: theta (n, d, d + 1) times each position of the grid, (x, y, .., 1). The result is
# (n, *spatial, d), and each element sums d + 1 products. The gradient takes as many.


@register_products(aten.affine_grid_generator, aten.cudnn_affine_grid_generator)
def _affine_grid(theta: Tensor, *_args: Any, out: Tensor, **_: Any) -> int:
    return 2 * out.numel() * theta.shape[-1]


@register_products(aten.cudnn_affine_grid_generator_backward)
def _affine_grid_backward(grad: Tensor, *_args: Any, **_: Any) -> int:
    return 2 * grad.numel() * (grad.shape[-1] + 1)


# --- Convolutions ---------------------------------------------------------------------------------


def convolution_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    transposed: bool = False,
) -> int:
    """Count the FLOPs of a convolution; padding is multiplied like any other input.

    Each weight is used once per sample at every position of the kernel: output positions for a
    convolution, input positions for a transposed one. Groups need no factor: the weight is already
    smaller, (out, in / groups, *kernel) or transposed (in, out / groups, *kernel).

    Args:
        input_shape: (batch, in channels, *spatial).
        weight_shape: as described above.
        output_shape: (batch, out channels, *spatial).
        transposed: whether the convolution is transposed.

    Returns:
        FLOPs for the whole batch.
    """
    positions = prod((input_shape if transposed else output_shape)[2:])
    return 2 * input_shape[0] * positions * prod(weight_shape)


@register_paper_formula(aten.convolution)
@register_products(aten.convolution)
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


# Every product x[i] * w[j] of the forward pass that adds to y[k] returns once in the gradient of
# x[i], as w[j] * dy[k], and once in that of w[j], as x[i] * dy[k]: each costs one forward pass.


@register_products(aten.convolution_backward)
def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    transposed, output_mask = args[4], args[7]
    wanted = int(output_mask[0]) + int(output_mask[1])  # the third entry is the bias
    return wanted * convolution_flops(x.shape, weight.shape, grad.shape, transposed=transposed)


# torch 2.6 to 2.13 counts the weight gradient as a convolution of all input channels with all
# output channels: `groups` times too many products.


@register_paper_formula(aten.convolution_backward)
def _paper_convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any
) -> int:
    transposed, groups, output_mask = args[4], args[6], args[7]
    wanted = int(output_mask[0]) + int(groups) * int(output_mask[1])
    once = convolution_flops(x.shape, weight.shape, grad.shape, transposed=transposed)
    return wanted * once


# --- Attention ------------------------------------------------------------------------------------
# query (batch, heads, s, d), key (.., t, d), value (.., t, e). Scores q @ k^T: s*t*d multiply-adds
# a head, scores @ v: s*t*e. A causal mask is not subtracted. The CPU kernel is not in the paper's
# list since torch's counter does not know it.

_ATTENTION_KERNELS = ("flash", "efficient", "cudnn")


def _kernels(suffix: str = "") -> list[Any]:
    names = (f"_scaled_dot_product_{kernel}_attention{suffix}" for kernel in _ATTENTION_KERNELS)
    return [getattr(aten, name) for name in names]


@register_paper_formula(*_kernels())
@register_products(*_kernels(), aten._scaled_dot_product_flash_attention_for_cpu)  # noqa: SLF001
def _attention(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_: Any) -> int:
    score_count = query.shape[:-1].numel() * key.shape[-2]
    return 2 * score_count * (query.shape[-1] + value.shape[-1])


# The scores are computed again (d); then grad scores = dy @ v^T (e), grad v = scores^T @ dy (e),
# grad q = grad scores @ k (d), grad k = grad scores^T @ q (d).


@register_paper_formula(*_kernels("_backward"))
@register_products(
    *_kernels("_backward"),
    aten._scaled_dot_product_flash_attention_for_cpu_backward,  # noqa: SLF001
)
def _attention_backward(
    _grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_: Any
) -> int:
    score_count = query.shape[:-1].numel() * key.shape[-2]
    return 2 * score_count * (3 * query.shape[-1] + 2 * value.shape[-1])


# --- Singular value decomposition -----------------------------------------------------------------
# Of an (m, n) matrix, m >= n, by R-SVD (Golub and Van Loan, Matrix Computations, 4th edition,
# figure 8.6.1): values only 2 m n^2 + 2 n^3, with thin U and V 6 m n^2 + 20 n^3. An estimate: the
# number of iterations depends on the values.


@register_products(aten._linalg_svd)  # noqa: SLF001
def _svd(
    matrix: Tensor,
    _full_matrices: bool = False,  # noqa: FBT001, FBT002 - aten passes them by position
    compute_uv: bool = True,  # noqa: FBT001, FBT002
    **_: Any,
) -> int:
    n, m = sorted(matrix.shape[-2:])
    each = 6 * m * n**2 + 20 * n**3 if compute_uv else 2 * m * n**2 + 2 * n**3
    return int(matrix.shape[:-2].numel() * each)


# --- Linear systems -------------------------------------------------------------------------------
# LU of an (n, n) matrix: for k = n-1 ... 1 below a pivot, k divisions and k^2 multiply-adds, so
# n (n - 1) / 2 + n (n - 1) (2n - 1) / 3 = (4n^3 - 3n^2 - n) / 6. Then for each of k right-hand
# sides n (n - 1) FLOPs with the unit triangle and n^2 with the other, whose diagonal divides.


def _lu(n: int) -> int:
    return (4 * n**3 - 3 * n**2 - n) // 6


def _substitutions(n: int) -> int:
    return 2 * n**2 - n


@register_products(aten._linalg_solve_ex)  # noqa: SLF001
def _solve(matrix: Tensor, *_args: Any, out: Any, **_: Any) -> int:
    n = matrix.shape[-1]
    solution = out[0]  # (..., n, k), or (..., n) if the right-hand sides are vectors
    batch = matrix.shape[:-2].numel()
    return int(batch * _lu(n) + solution.numel() // n * _substitutions(n))


@register_products(aten.linalg_lu_solve, one_dtype=False)  # pivots are integers
def _lu_solve(factors: Tensor, *_args: Any, out: Tensor, **_: Any) -> int:
    n = factors.shape[-1]
    return out.numel() // n * _substitutions(n)


# The pseudoinverse is computed from the SVD: with V and U (k columns each), V diag(1 / s) U^T.


@register_products(aten.linalg_pinv, one_dtype=False)  # tolerances are real
def _pseudoinverse(matrix: Tensor, *_args: Any, **_: Any) -> int:
    m, n = matrix.shape[-2:]
    product = 2 * m * n * min(m, n)
    return _svd(matrix) + matrix.shape[:-2].numel() * product
