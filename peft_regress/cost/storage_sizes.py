"""Storages that a real operator on the CPU makes larger than its fake kernel does.

Seen in torch 2.13. A storage is only ever made larger, so that nothing is added where another
release has the right size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["real_sizes_of"]

Sizes = Iterator[tuple[Tensor, int]]

aten = torch.ops.aten


def real_sizes_of(packet: Any) -> Callable[[tuple[Any, ...], Any], Sizes] | None:
    """Layout up which outputs have a storage of how many bytes at least, from arguments and result.

    None where the fake kernel is right.
    """
    return _SIZES.get(packet)


def _at_least_the_input_s(args: tuple[Any, ...], out: Tensor) -> Sizes:
    """Follow `empty_like(input)`, resized to the result's shape: no storage shrinks by that."""
    yield out, args[0].numel() * out.element_size()


def _statistics_in_float32(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Keep mean and deviation in float32 where parameters have another dtype than the input."""
    dtypes = {arg.dtype for arg in args if isinstance(arg, Tensor)}
    if len(dtypes) > 1:
        for statistic in out[1:]:
            yield statistic, statistic.numel() * torch.float32.itemsize


def _one_bag_more(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> Sizes:
    """Find the bag of each index with one entry more, and a bag for the last offset as well."""
    _, offset_to_bag, bag_size, _ = out
    if offset_to_bag.numel():
        yield offset_to_bag, (offset_to_bag.numel() + 1) * offset_to_bag.element_size()
    yield bag_size, args[2].numel() * bag_size.element_size()


_SIZES: dict[Any, Callable[[tuple[Any, ...], Any], Sizes]] = {
    aten.im2col: _at_least_the_input_s,
    aten.col2im: _at_least_the_input_s,
    aten.native_layer_norm: _statistics_in_float32,
    aten.native_group_norm: _statistics_in_float32,
    aten.native_batch_norm: _statistics_in_float32,
    aten._native_batch_norm_legit: _statistics_in_float32,  # noqa: SLF001
    aten._embedding_bag: _one_bag_more,  # noqa: SLF001
    aten._embedding_bag_forward_only: _one_bag_more,  # noqa: SLF001
}
