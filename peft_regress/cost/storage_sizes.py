"""Correct storages that a real CPU operator makes larger than its fake kernel does.

Seen in torch 2.13. A storage can only grow, so a release with the right size stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

Sizes = Iterator[tuple[Tensor, int]]

aten = torch.ops.aten

_PAGE_BYTES: Final = 4096


def real_sizes_of(packet: Any) -> Callable[[tuple[Any, ...], Any], Sizes] | None:
    """Return a function (arguments, result) -> (output, least bytes of its storage).

    None if the fake kernel is right.
    """
    return _SIZES.get(packet)


def _at_least_the_input(args: tuple[Any, ...], out: Tensor) -> Sizes:
    """Yield the result: `empty_like(input)`, resized, and resizing never shrinks a storage."""
    yield out, args[0].numel() * out.element_size()


def _statistics_in_float32(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Mean and deviation are float32 if the parameters have another dtype than the input."""
    dtypes = {arg.dtype for arg in args if isinstance(arg, Tensor)}
    if len(dtypes) > 1:
        for statistic in out[1:]:
            yield statistic, statistic.numel() * torch.float32.itemsize


def _one_more_bag(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Yield the bag of each index, with one more entry, and the sizes, with one for the last."""
    _, offset_to_bag, bag_size, _ = out
    if offset_to_bag.numel():
        yield offset_to_bag, (offset_to_bag.numel() + 1) * offset_to_bag.element_size()
    yield bag_size, args[2].numel() * bag_size.element_size()


def _workspace(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Yield what oneDNN keeps of a recurrent layer in float32 for its backward pass.

    Each part begins a page: the gates and the new states of each step, then, for one step more and
    before and after the layer, three tensors of states that inputs fit into, too, and two of cells.
    """
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


_SIZES: dict[Any, Callable[[tuple[Any, ...], Any], Sizes]] = {
    aten.im2col: _at_least_the_input,
    aten.col2im: _at_least_the_input,
    aten.native_layer_norm: _statistics_in_float32,
    aten.native_group_norm: _statistics_in_float32,
    aten.native_batch_norm: _statistics_in_float32,
    aten._native_batch_norm_legit: _statistics_in_float32,  # noqa: SLF001
    aten._embedding_bag: _one_more_bag,  # noqa: SLF001
    aten._embedding_bag_forward_only: _one_more_bag,  # noqa: SLF001
    aten.mkldnn_rnn_layer: _workspace,
}
