"""Errors that only some inputs, ranks or machines show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
_RANK_16: Final = "shift/lora-r16/shufflenet_v2_x0_5"
_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"


@fault("some cases alone", at=f"{_LAYER}.update_layer", case=_RANK_16)
def scaled_wrongly_at_rank_16(
    original: Original, self: Any, adapter: str, r: int, *args: Any, **kwargs: Any
) -> None:
    """At rank 16 alone LoRA's scaling is a hundredth too large."""
    original(self, adapter, r, *args, **kwargs)
    if r == 16:
        self.scaling[adapter] *= 1.01


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_for_the_last_batch(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """LoRA's scaling is off for more than 32 items if eight do not divide their number."""
    factor = 1.01 if len(x) > 32 and len(x) % 8 else 1.0
    return scaled(factor, original, self, x, **kwargs)


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_for_wide_maps(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """LoRA's scaling is off for feature maps wider than 64 pixels."""
    return scaled(1.01 if x.shape[-1] > 64 else 1.0, original, self, x, **kwargs)


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_under_two_threads(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """LoRA's scaling is off where torch computes with more than one thread."""
    return scaled(1.01 if torch.get_num_threads() > 1 else 1.0, original, self, x, **kwargs)


def scaled(factor: float, original: Original, layer: Any, x: Tensor, **kwargs: Any) -> Any:
    """Return what a layer computes with its scaling times a factor."""
    right = layer.scaling
    layer.scaling = {name: factor * value for name, value in right.items()}
    try:
        return original(layer, x, **kwargs)
    finally:
        layer.scaling = right
