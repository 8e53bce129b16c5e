"""Weights near a model's own: training from them shows how far rounding may move the losses."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

_SHARE: Final = 1e-4
"""A thousand times what float32 rounds to: so a few steps meet the kinks (of a ReLU, a max-pool, or
the sign of a tiny gradient) that rounding could meet on another machine."""


@torch.no_grad()
def move_nearby(model: nn.Module) -> None:
    """Make each weight of a model larger or smaller by 1e-4 of it, always in the same way."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            signs = 2 * torch.randint(2, parameter.shape, generator=generator) - 1
            parameter.mul_(1 + _SHARE * signs.to(parameter.device))
