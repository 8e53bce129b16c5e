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
    takes_one_dtype,
)
from peft_regress.cost.linear_algebra import is_svd
from peft_regress.cost.storage_sizes import real_sizes_of

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
