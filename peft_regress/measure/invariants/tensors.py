"""The tensors of a model by name: which of them train, and which moved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each parameter that requires a gradient."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return all parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copies_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not bit-identical any more, or not there."""
    return [
        name
        for name, tensor in before.items()
        if name not in after or not torch.equal(tensor, after[name])
    ]
