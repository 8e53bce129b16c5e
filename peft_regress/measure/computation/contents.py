"""Digests of what tensors hold, and of a sequence of values."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

_as_array: Final[Any] = torch._C.TensorBase.numpy  # noqa: SLF001  (the class's is watched in a step)


def bytes_digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's shape, type and bytes."""
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.resolve_conj().resolve_neg().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    if values.numel():
        digest.update(_as_array(values.reshape(-1).view(torch.uint8)))
    return digest.hexdigest()


class Digest:
    """A digest of values in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, value: object) -> None:
        """Add a value that its `repr` tells in full."""
        self._digest.update(repr(value).encode())
        self._digest.update(b"\n")

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return self._digest.hexdigest()


def leaves_of(tree: Any) -> Iterator[Any]:
    """Yield the tensors and other values in a batch, with the names and kinds of what holds them.

    What is neither a container nor a plain value comes as it is.
    """
    if isinstance(tree, Mapping):
        yield f"{type(tree).__name__} of {len(tree)}"
        for name, part in tree.items():
            yield name
            yield from leaves_of(part)
    elif isinstance(tree, tuple | list):
        yield f"{type(tree).__name__} of {len(tree)}"
        for part in tree:
            yield from leaves_of(part)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        yield type(tree).__name__
        yield from leaves_of(vars(tree))
    else:
        yield tree


def form_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return what is known of a tensor without its values."""
    return str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.requires_grad
