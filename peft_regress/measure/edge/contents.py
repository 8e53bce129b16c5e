"""Digests of what tensors hold, and of a sequence of values."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor


def bytes_digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's shape, type and bytes."""
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.resolve_conj().resolve_neg().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    if values.numel():
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
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


def form_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return what is known of a tensor without its values."""
    return str(tensor.dtype), tuple(tensor.shape), tensor.stride(), tensor.requires_grad
