"""The facts about an operator that recording needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peft_regress.cost import flops  # noqa: F401 - registers its formulas
from peft_regress.cost.formulas import (
    does_matrix_work,
    formula_of,
    paper_formula_of,
    register_products,
    takes_one_dtype,
)
from peft_regress.cost.storage_sizes import real_sizes_of

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


_NO_FOREACH = (
    "One kernel over many tensors hides its parts: construct the optimizer with foreach=False "
    "and fused=False."
)

# torch.tensor calls these on the values that it is given.
_LIFTS = frozenset({torch.ops.aten.lift_fresh, torch.ops.aten.lift_fresh_copy, torch.ops.aten.lift})


class Operator(NamedTuple):
    """The facts about an operator overload, looked up once."""

    name: str
    is_counted_op: bool
    formula: Callable[..., int] | None
    paper_formula: Callable[..., int] | None
    takes_one_dtype: bool
    is_pointwise: bool
    is_svd: bool
    is_composite: bool
    stops_the_count: bool
    many_tensors_remedy: str
    """What to do about a kernel over many tensors; '' for other operators."""
    real_sizes: Callable[[tuple[Any, ...], Any], Iterator[tuple[Tensor, int]]] | None
    uses_operands: bool


def describe(func: Any) -> Operator:
    """Look up the facts about an overload."""
    packet = func._overloadpacket  # noqa: SLF001
    name = str(packet)
    formula = formula_of(packet)
    # prim.device, by which fake tensors return their device, is in no dispatcher. An operator with
    # a kernel of its own, such as silu_backward, runs that kernel and not its parts.
    is_composite = (
        func.namespace != "prim"
        and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)  # noqa: SLF001
        and not func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CPU)  # noqa: SLF001
    )
    return Operator(
        name=name,
        is_counted_op=func.namespace == "aten",
        formula=formula,
        paper_formula=paper_formula_of(packet),
        takes_one_dtype=takes_one_dtype(packet),
        is_pointwise=torch.Tag.pointwise in func.tags,
        is_svd=is_svd(packet),
        is_composite=is_composite,
        stops_the_count=formula is None and does_matrix_work(name),
        real_sizes=real_sizes_of(packet),
        many_tensors_remedy=_NO_FOREACH if "_foreach_" in name or "_fused_" in name else "",
        # torch asks a fake tensor for its device at a point where an error would end the process.
        uses_operands=func.namespace != "prim" and packet not in _LIFTS,
    )
