"""The facts about an operator that recording needs."""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from peft_regress.cost import flops  # noqa: F401 - registers its formulas
from peft_regress.cost.formulas import does_matrix_work, formula_of, paper_formula_of

aten = torch.ops.aten

_PAGE_BYTES: Final = 4096
_IMAGE_DIMS: Final = 4  # batch, channels, height, width
# oneDNN reads an image of so few channels as it is.
_PLAIN_CHANNELS: Final = 4

Sizes = Iterator[tuple[Tensor, int]]

_NO_FOREACH = (
    "One kernel over many tensors hides its parts: construct the optimizer with foreach=False "
    "and fused=False."
)

# torch.tensor calls these on the values that it is given.
_LIFTS = frozenset({aten.lift_fresh, aten.lift_fresh_copy, aten.lift})


class Enough(NamedTuple):
    """What would do in the place of what an operator of the backward pass gets."""

    operator: str
    """That of the forward pass, as people call it."""
    sizes: Callable[[tuple[Any, ...]], dict[int, int]]
    """(arguments) -> bytes for each element, by position; the others are needed as they are."""


# An input is read for the gradient of a weight alone (the mask of outputs says so), by BatchNorm
# also for the statistics of a batch; of others a mask of 1 byte does, or indices of 4.
_ENOUGH: Final[dict[Any, Enough]] = {
    aten.convolution_backward: Enough("convolution", lambda args: {} if args[-1][1] else {1: 0}),
    aten.native_batch_norm_backward: Enough(
        "BatchNorm", lambda args: {} if args[-3] or args[-1][1] else {1: 0}
    ),
    aten.threshold_backward: Enough("ReLU", lambda _: {1: 1}),
    aten.hardtanh_backward: Enough("ReLU6", lambda _: {1: 1}),
    aten.max_pool2d_with_indices_backward: Enough("max pooling", lambda _: {1: 0, 7: 4}),
    aten.avg_pool2d_backward: Enough("average pooling", lambda _: {1: 0}),
    aten._adaptive_avg_pool2d_backward: Enough("average pooling", lambda _: {1: 0}),  # noqa: SLF001
}


class Operator(NamedTuple):
    """The facts about an operator overload, looked up once."""

    name: str
    is_counted_op: bool
    formula: Callable[..., int] | None
    paper_formula: Callable[..., int] | None
    is_pointwise: bool
    is_svd: bool
    is_composite: bool
    stops_the_count: bool
    is_over_many: bool
    """Whether it does one thing for each tensor of a list."""
    many_tensors_remedy: str
    """What to do about such a kernel if its work is unknown; '' for other operators."""
    real_sizes: Callable[[tuple[Any, ...], Any], Sizes] | None
    """(arguments, result) -> (output, least bytes of its storage); None for a right fake kernel."""
    uses_operands: bool
    is_view: bool
    """Whether it reads no values: its result is a view of an operand."""
    enough: Enough | None
    """None if it needs all that it gets."""
    copies: Callable[[tuple[Any, ...], Any], int] | None
    """(arguments, result) -> bytes of copies inside; None for an operator that makes none."""


def describe(func: Any) -> Operator:
    """Look up the facts about an overload."""
    packet = func._overloadpacket  # noqa: SLF001
    name = str(packet)
    formula = formula_of(packet)
    is_foreach, is_fused = "_foreach_" in name, "_fused_" in name
    # `_foreach_sqrt_` does for each tensor what `sqrt` does, but has no tag.
    alike = name.removeprefix("aten._foreach_").removesuffix("_")
    single = getattr(aten, alike, None) if is_foreach else packet
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
        is_pointwise=torch.Tag.pointwise in func.tags or (is_foreach and _is_pointwise(single)),
        is_svd=packet is aten._linalg_svd,  # noqa: SLF001 - GaLore's projection
        is_composite=is_composite,
        stops_the_count=formula is None and does_matrix_work(name),
        real_sizes=_SIZES.get(packet),
        is_over_many=is_foreach or (is_fused and formula is not None),
        many_tensors_remedy=_NO_FOREACH if single is None or (is_fused and not formula) else "",
        # torch asks a fake tensor for its device at a point where an error would end the process.
        uses_operands=func.namespace != "prim" and packet not in _LIFTS,
        is_view=func.is_view,
        enough=_ENOUGH.get(packet),
        copies=_COPIES.get(packet),
    )


def _is_pointwise(packet: Any) -> bool:
    overloads = packet.overloads() if packet is not None else ()
    return any(torch.Tag.pointwise in getattr(packet, one).tags for one in overloads)


def _at_least_the_input(args: tuple[Any, ...], out: Tensor) -> Sizes:
    """Yield the result: `empty_like(input)`, resized, and resizing never shrinks a storage."""
    yield out, args[0].numel() * out.element_size()


def _statistics_in_float32(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Mean and deviation are float32 if the parameters have another dtype than the input."""
    dtypes = {arg.dtype for arg in args if isinstance(arg, Tensor)}
    if len(dtypes) > 1:
        for statistic in out[1:]:
            yield statistic, statistic.numel() * torch.float32.itemsize


def _workspace(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Yield what oneDNN keeps of a recurrent layer in float32 for its backward pass."""
    # Each part begins a page: the gates and the new states of each step, then, for one step more
    # and before and after the layer, three tensors of states that inputs fit into, too, and two of
    # cells.
    x, width, trains = args[0], args[10], args[15]
    if not trains or x.dtype != torch.float32:
        return
    steps, batch, inputs = x.shape
    rows, rows_of_states = steps * batch, 2 * (steps + 1) * batch
    counts = (
        rows * _padded(4 * width),
        rows * _padded(width),
        *3 * (rows_of_states * _padded(max(inputs, width)),),
        *2 * (rows_of_states * width,),
    )
    yield out[3], sum(_round_up(count * x.element_size(), _PAGE_BYTES) for count in counts)


def _padded(width: int) -> int:
    """Return the length of a row: whole lines of 64 bytes, and no multiple of 1 KiB."""
    padded = _round_up(width, 16)
    return padded if padded % 256 else padded + 16


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _in_blocks(*images: Tensor | None) -> int:
    """Return the bytes of images in oneDNN's layout, which keeps 16 channels together."""
    return sum(
        one.numel() // one.shape[1] * _round_up(one.shape[1], 16) * one.element_size()
        for one in images
        if one is not None and one.ndim == _IMAGE_DIMS and one.shape[1] > _PLAIN_CHANNELS
    )


_SIZES: dict[Any, Callable[[tuple[Any, ...], Any], Sizes]] = {
    aten.im2col: _at_least_the_input,
    aten.col2im: _at_least_the_input,
    aten.native_layer_norm: _statistics_in_float32,
    aten.native_group_norm: _statistics_in_float32,
    aten.native_batch_norm: _statistics_in_float32,
    aten._native_batch_norm_legit: _statistics_in_float32,  # noqa: SLF001
    aten.mkldnn_rnn_layer: _workspace,
}

_COPIES: Final[dict[Any, Callable[[tuple[Any, ...], Any], int]]] = {
    aten.convolution: lambda args, out: _in_blocks(args[0], out),
    aten.convolution_backward: lambda args, out: _in_blocks(args[0], args[1], out[0]),
}
