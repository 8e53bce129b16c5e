"""FLOP formulas of matrix decompositions and linear systems."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peft_regress.cost.formulas import register_products

aten = torch.ops.aten


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


def is_svd(packet: Any) -> bool:
    """Return whether an operator is the SVD: in an optimizer's step, GaLore's projection."""
    return packet is aten._linalg_svd  # noqa: SLF001
