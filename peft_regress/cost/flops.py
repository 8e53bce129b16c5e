"""FLOP formulas of operators.

One multiply-add is 2 FLOPs, of complex numbers 8. Only matrix work counts: convolutions, matrix
products, attention. Adding a bias, batch normalization, activations, pooling, reductions and FFTs
do not count.

Two counters share the formulas. The first is correct. The second, the paper's, reports what
`torch.utils.flop_counter.FlopCounterMode` reports in torch 2.6 to 2.13: its weight gradient of a
grouped convolution is `groups` times too large. Published figures have this error (docs/paper.md
lists their other differences), so the formulas keep it, and a fix in torch cannot move it.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import conv_flop_count, flop_registry

from peft_regress.cost.formulas import Formula, register_flop_formula, register_paper_formula

aten = torch.ops.aten


def _products(*operators: Any, times: int = 1) -> Callable[[Formula], Formula]:
    """Register a formula, `times` over; of complex numbers a multiply-add is four real ones.

    A sparse factor multiplies the numbers that it holds.
    """

    def register(formula: Formula) -> Formula:
        def counted(*args: Any, **kwargs: Any) -> int:
            tensors = [one for one in args if isinstance(one, Tensor)]
            is_complex = any(one.is_complex() for one in tensors)
            flops = (4 if is_complex else 1) * times * formula(*args, **kwargs)
            for one in tensors:
                if one.is_sparse and flops:
                    flops = flops * one._nnz() // one.numel()  # noqa: SLF001  (torch has no other)
            return flops

        register_flop_formula(*operators)(counted)
        return formula

    return register


# --- Products of which torch's counter is right ---------------------------------------------------


def _torch_s(product: Any, *, adds: bool) -> Callable[..., int]:
    """Return the formula of torch's own counter; `adds`: of an operator that adds to a product."""
    # Without its wrapper, which looks for tensors at any depth: that takes longer than the
    # operator.
    formula: Callable[..., int] = inspect.unwrap(flop_registry[product])

    def counted(*args: Any, out: Tensor, **kwargs: Any) -> int:
        shapes = (arg.shape if isinstance(arg, Tensor) else arg for arg in args[adds:])
        return formula(*shapes, out_shape=out.shape, **kwargs)

    return counted


for _operator, _product, _alike in (
    (aten.mm, aten.mm, ()),
    (aten.addmm, aten.mm, (aten.addmm_, aten._addmm_activation, aten._sparse_addmm)),  # noqa: SLF001
    (aten.bmm, aten.bmm, ()),
    (aten.baddbmm, aten.bmm, (aten.baddbmm_, aten.addbmm, aten.addbmm_)),
    (aten.convolution, aten.convolution, ()),
):
    _counted = _torch_s(_product, adds=_operator is not _product)
    register_paper_formula(_operator)(_counted)
    _products(_operator, *_alike)(_counted)


# --- Products that it does not know ---------------------------------------------------------------
# (m, n) @ (n,), (n,) @ (n,) and the outer product (m,) x (n,): m*n multiply-adds.


@_products(aten.mv, aten.dot, aten.vdot)
def _mv(matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@_products(aten.addmv, aten.addmv_)
def _addmv(_bias: Tensor, matrix: Tensor, _vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


@_products(aten.addr, aten.addr_)
def _addr(_bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.numel()


# Of each group one product. `offs` has the ends of the groups in the dimension that they split: the
# rows of a (m, k) with b (g, k, n), the columns of b (k, n) with a (g, m, k), or of a (m, k) and
# b (k, n) the sums, for a result (g, m, n). Fake ones are taken to split all of it. Without `offs`,
# a and b are batches. What transformers runs without the operator takes both gradients, always.


@_products("transformers.grouped_mm_fallback_backward", times=2)
@_products("aten._grouped_mm", "transformers.grouped_mm_fallback")
def _grouped_product(
    a: Tensor, b: Tensor, offs: Tensor | None = None, *_args: Any, **_: Any
) -> int:
    (m, k), n = a.shape[-2:], b.shape[-1]
    if offs is None:
        return 2 * a.numel() * n
    split, others = k, m * n
    if a.dim() > b.dim():
        split, others = n, m * k
    elif a.dim() < b.dim():
        split, others = m, k * n
    return 2 * others * (split if isinstance(offs, FakeTensor) else int(offs[-1]))


# One direction of a layer of an LSTM, x (t, n, i): each step multiplies x by (4h, i) and the last
# state, which is 0 at first, by (4h, h). The backward pass takes each product twice, for the
# gradients of both factors: it has no way to leave one out. torch's counter does not know it.


@_products(aten.mkldnn_rnn_layer_backward, times=2)
@_products(aten.mkldnn_rnn_layer)
def _recurrent_layer(
    x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *_args: Any, **_: Any
) -> int:
    steps, batch, _width = x.shape
    return 2 * steps * batch * (input_weight.numel() + hidden_weight.numel())


# An affine grid: theta (n, d, d + 1) times each position of the grid, (x, y, .., 1). The result is
# (n, *spatial, d), and each element sums d + 1 products. The gradient takes as many.


@_products(aten.affine_grid_generator, aten.cudnn_affine_grid_generator)
def _affine_grid(theta: Tensor, *_args: Any, out: Tensor, **_: Any) -> int:
    return 2 * out.numel() * theta.shape[-1]


@_products(aten.cudnn_affine_grid_generator_backward)
def _affine_grid_backward(grad: Tensor, *_args: Any, **_: Any) -> int:
    return 2 * grad.numel() * (grad.shape[-1] + 1)


# --- Convolutions ---------------------------------------------------------------------------------


def _convolution(x: Tensor, weight: Tensor, out: Tensor, *, transposed: bool) -> int:
    return conv_flop_count([*x.shape], [*weight.shape], [*out.shape], transposed=transposed)


# Every product x[i] * w[j] of the forward pass that adds to y[k] returns once in the gradient of
# x[i], as w[j] * dy[k], and once in that of w[j], as x[i] * dy[k]: each costs one forward pass.


@_products(aten.convolution_backward)
def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    transposed, output_mask = args[4], args[7]
    wanted = int(output_mask[0]) + int(output_mask[1])  # the third entry is the bias
    return wanted * _convolution(x, weight, grad, transposed=transposed)


# torch 2.6 to 2.13 counts the weight gradient as a convolution of all input channels with all
# output channels: `groups` times too many products.


@register_paper_formula(aten.convolution_backward)
def _paper_convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any
) -> int:
    transposed, groups, output_mask = args[4], args[6], args[7]
    wanted = int(output_mask[0]) + int(groups) * int(output_mask[1])
    return wanted * _convolution(x, weight, grad, transposed=transposed)


# --- Attention ------------------------------------------------------------------------------------
# query (batch, heads, s, d), key (.., t, d), value (.., t, e). Scores q @ k^T: s*t*d multiply-adds
# a head, scores @ v: s*t*e. A causal mask is not subtracted. The CPU kernel is not in the paper's
# list since torch's counter does not know it.

_ATTENTION_KERNELS = ("flash", "efficient", "cudnn")


def _kernels(suffix: str = "") -> list[Any]:
    names = (f"_scaled_dot_product_{kernel}_attention{suffix}" for kernel in _ATTENTION_KERNELS)
    return [getattr(aten, name) for name in names]


@register_paper_formula(*_kernels())
@_products(*_kernels(), aten._scaled_dot_product_flash_attention_for_cpu)  # noqa: SLF001
def _attention(query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_: Any) -> int:
    score_count = query.shape[:-1].numel() * key.shape[-2]
    return 2 * score_count * (query.shape[-1] + value.shape[-1])


# The scores are computed again (d); then grad scores = dy @ v^T (e), grad v = scores^T @ dy (e),
# grad q = grad scores @ k (d), grad k = grad scores^T @ q (d).


@register_paper_formula(*_kernels("_backward"))
@_products(
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


@_products(aten._linalg_svd)  # noqa: SLF001
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


def _substitutions(n: int) -> int:
    return 2 * n**2 - n


@_products(aten._linalg_solve_ex)  # noqa: SLF001
def _solve(matrix: Tensor, *_args: Any, out: Any, **_: Any) -> int:
    n = matrix.shape[-1]
    solution = out[0]  # (..., n, k), or (..., n) if the right-hand sides are vectors
    batch = matrix.shape[:-2].numel()
    return int(batch * (4 * n**3 - 3 * n**2 - n) // 6 + solution.numel() // n * _substitutions(n))


@_products(aten.linalg_lu_solve)
def _lu_solve(factors: Tensor, *_args: Any, out: Tensor, **_: Any) -> int:
    n = factors.shape[-1]
    return out.numel() // n * _substitutions(n)


@_products(aten.linalg_solve_triangular)
def _triangular_solve(
    matrix: Tensor, *_args: Any, unitriangular: bool = False, out: Tensor, **_: Any
) -> int:
    n = matrix.shape[-1]
    return out.numel() * (n - 1 if unitriangular else n)


# Cholesky of an (n, n) matrix: column j from 0 takes n - j dot products of length j, n - j - 1
# divisions and a root, so (n^3 - n) / 3 + n (n + 1) / 2 = n (n + 1) (2n + 1) / 6.


@_products(aten.linalg_cholesky_ex)
def _cholesky(matrix: Tensor, *_args: Any, **_: Any) -> int:
    n = matrix.shape[-1]
    return matrix.shape[:-2].numel() * (n * (n + 1) * (2 * n + 1) // 6)


# The pseudoinverse is computed from the SVD: with V and U (k columns each), V diag(1 / s) U^T.


@_products(aten.linalg_pinv)
def _pseudoinverse(matrix: Tensor, *_args: Any, **_: Any) -> int:
    m, n = matrix.shape[-2:]
    product = 2 * m * n * min(m, n)
    return _svd(matrix) + matrix.shape[:-2].numel() * product


# --- Updates of many tensors by one kernel --------------------------------------------------------

# As their elements cost with foreach=False: both averages (1 and 2), the root, its correction, eps
# and the step, and one for each of what is asked for beside: decay, amsgrad's maximum, the sign.


@register_flop_formula(aten._fused_adam_, aten._fused_adamw_)
def _fused_adam(
    tensors: list[Tensor], *_args: Any, weight_decay: float, amsgrad: bool, maximize: bool, **_: Any
) -> int:
    for_each = 7 + bool(weight_decay) + amsgrad + maximize
    return for_each * sum(tensor.numel() for tensor in tensors)
