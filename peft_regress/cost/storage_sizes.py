"""Correct storages that a real CPU operator makes larger than its fake kernel does.

Seen in torch 2.13. A storage can only grow, so a release with the right size stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Sizes = Iterator[tuple[Tensor, int]]

aten = torch.ops.aten


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


_SIZES: dict[Any, Callable[[tuple[Any, ...], Any], Sizes]] = {
    aten.im2col: _at_least_the_input,
    aten.col2im: _at_least_the_input,
    aten.native_layer_norm: _statistics_in_float32,
    aten.native_group_norm: _statistics_in_float32,
    aten.native_batch_norm: _statistics_in_float32,
    aten._native_batch_norm_legit: _statistics_in_float32,  # noqa: SLF001
    aten._embedding_bag: _one_more_bag,  # noqa: SLF001
    aten._embedding_bag_forward_only: _one_more_bag,  # noqa: SLF001
}
