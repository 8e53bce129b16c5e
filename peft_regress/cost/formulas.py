"""Which operators have a FLOP formula, and which must have one.

Two registries: the correct formulas, and those of the paper's counter, which is torch's own.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from peft_regress.errors import InputError, PeftRegressError

Formula = TypeVar("Formula", bound="Callable[..., int]")

_FORMULAS: dict[str, Callable[..., int]] = {}
"""By name, such as "aten.mm": not every torch, and no torch by itself, has all of them."""
_PAPER_FORMULAS: dict[str, Callable[..., int]] = {}


class UncountedOperatorError(PeftRegressError):
    """An operator that does matrix work, or may do, has no registered formula."""

    def __init__(self, *, operator: str, module: str, phase: str, remedy: str = "") -> None:
        self.operator = operator
        self.module = module
        self.phase = phase
        remedy = remedy or (
            "Register one: @peft_regress.cost.register_flop_formula("
            f"torch.ops.{operator}) above a function (*args, out, **kwargs) -> int that gets the "
            "operator's own arguments and its result. Return 0 if it does no matrix work."
        )
        super().__init__(
            f"no FLOP formula for {operator}, reached in {location_of(phase, module)}; counting it "
            f"as 0 would hide work. {remedy}"
        )


def location_of(phase: str, module: str) -> str:
    """Describe a point in a step, for a message: "the forward pass of module 'layer1'"."""
    where = f"module {module!r}" if module else "the model itself"
    known = {"forward": f"the forward pass of {where}", "backward": f"the backward pass of {where}"}
    return known.get(phase, f"the update of {where}")


def register_flop_formula(*operators: Any) -> Callable[[Formula], Formula]:
    """Register a formula for operators that the built-in formulas do not cover.

    The formula is called as `formula(*args, out=result, **kwargs)` and returns FLOPs. Operators
    are packets, such as `torch.ops.aten.mm`, or their names. The paper's counter ignores it, as
    torch's does.

    Raises `InputError` if one of the operators already has a formula.
    """

    def register(formula: Formula) -> Formula:
        for operator in operators:
            if str(operator) in _FORMULAS:
                raise InputError(f"{operator} already has a FLOP formula")
        _FORMULAS.update(dict.fromkeys(map(str, operators), formula))
        return formula

    return register


def register_paper_formula(*operators: Any) -> Callable[[Formula], Formula]:
    """Register what torch's own counter counts."""

    def register(formula: Formula) -> Formula:
        _PAPER_FORMULAS.update(dict.fromkeys(map(str, operators), formula))
        return formula

    return register


def formula_of(packet: Any) -> Callable[..., int] | None:
    """Return the correct formula of an operator packet, or None."""
    return _FORMULAS.get(str(packet))


def paper_formula_of(packet: Any) -> Callable[..., int] | None:
    """Return the formula that torch's own counter applies to a packet, or None."""
    return _PAPER_FORMULAS.get(str(packet))


# --- Operators that must have a formula -----------------------------------------------------------

# By the words of a name, not by a list of names: a kernel that a new release adds, such as another
# fused convolution, then stops the count instead of vanishing from it.
# fmt: off
_MATRIX_WORDS = frozenset({
    "mm", "bmm", "smm", "hspmm", "sspaddmm", "addmm", "addbmm", "baddbmm", "addmv", "mv", "addr",
    "ger", "dot", "vdot", "matmul", "einsum", "linear", "bilinear", "trilinear", "conv", "conv1d",
    "conv2d", "conv3d", "convolution", "tbc", "lstm", "gru", "rnn", "attention", "transformer",
    "cdist", "pdist", "linalg", "svd", "qr", "geqrf", "orgqr", "ormqr", "cholesky", "lu", "solve",
    "quantized", "dyn", "sparse", "euclidean", "spsolve",
})
_NO_MATRIX_WORK = frozenset({
    "linalg_vector_norm", "linalg_cross", "linalg_diagonal", "_linalg_check_errors",
    "linalg__powsum", "lu_unpack", "_sparse_softmax", "_sparse_log_softmax", "sparse_dim",
    "_sparse_coo_tensor_with_dims_and_tensors", "_to_sparse", "sparse_mask",
})
# Of torchvision: it picks boxes, and pools, by weights that it makes of positions.
_NO_MATRIX_WORK_OUTSIDE = frozenset({
    "torchvision.nms", "torchvision.roi_align", "torchvision._roi_align_backward",
    "torchvision.roi_pool", "torchvision._roi_pool_backward", "torchvision.ps_roi_align",
    "torchvision._ps_roi_align_backward", "torchvision.ps_roi_pool",
    "torchvision._ps_roi_pool_backward",
})
# fmt: on
_KNOWN_NAMESPACES = frozenset({"aten", "prim", "prims", "profiler"})


def does_matrix_work(packet_name: str) -> bool:
    """Return whether an operator without a formula, as "aten.convolution", must stop the count.

    True for names that suggest matrix work, and for everything outside torch's own namespaces: the
    work of a foreign kernel is unknown.
    """
    namespace, _, name = packet_name.partition(".")
    if namespace not in _KNOWN_NAMESPACES:
        return packet_name not in _NO_MATRIX_WORK_OUTSIDE
    return name not in _NO_MATRIX_WORK and not _MATRIX_WORDS.isdisjoint(name.split("_"))
