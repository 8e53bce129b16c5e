"""Digests of what tensors hold, and of a sequence of values."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import torch

from peft_regress.measure.trees import named_tensors

if TYPE_CHECKING:
    from torch import Tensor

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

    def add_batch(self, batch: Any) -> None:
        """Add the tensors of a batch, with their paths."""
        self.add([(path, bytes_digest(tensor)) for path, tensor in named_tensors(batch)])

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return self._digest.hexdigest()
