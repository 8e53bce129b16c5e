"""What peft could get wrong in DoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_DORA: Final = "shift/dora-r4/shufflenet_v2_x0_5"
_LAYER: Final = "peft.tuners.lora.dora:_DoraConvNdLayer"


@fault("DoRA", at=f"{_LAYER}.forward", case=_DORA)
def dora_base_computed_twice(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """The base convolution runs again inside the magnitude's layer, as before peft 0.15."""
    return original(self, x, **{**kwargs, "base_result": None})


@fault("DoRA", at=f"{_LAYER}.forward", case=_DORA)
def dora_norm_not_detached(  # noqa: PLR0913  (the arguments of the layer)
    _original: Original,
    self: Any,
    x: Tensor,
    *,
    lora_A: Any,  # noqa: N803
    lora_B: Any,  # noqa: N803
    scaling: float,
    base_layer: Any,
    base_result: Tensor,
    **_kwargs: Any,
) -> Tensor:
    """The gradient flows through the norm of the weight, a constant in the paper."""
    product = lora_B.weight.flatten(1) @ lora_A.weight.flatten(1)
    update = product.reshape(base_layer.weight.shape)
    factor = self.weight / self.get_weight_norm(base_layer.weight, update, scaling)
    if base_layer.bias is not None:
        base_result = base_result - base_layer.bias.reshape(factor.shape)
    result: Tensor = (factor - 1) * base_result + factor * lora_B(lora_A(x)) * scaling
    return result


@fault("DoRA", at=f"{_LAYER}.get_weight_norm", case=_DORA)
def dora_norm_of_the_base_alone(
    original: Original, self: Any, weight: Tensor, lora_weight: Tensor, scaling: float, **_: Any
) -> Any:
    """The magnitude is divided by the norm of the base weight, without the update."""
    return original(self, weight, lora_weight, scaling * 0)


@fault("DoRA", at=f"{_LAYER}.get_weight_norm", case=_DORA)
def dora_norm_of_another_order(
    _original: Original, _self: Any, weight: Tensor, lora_weight: Tensor, scaling: float, **_: Any
) -> Tensor:
    """The norm sums absolute values instead of squares, in the magnitude as in its divisor."""
    inputs = tuple(range(1, weight.ndim))
    summed = (weight + scaling * lora_weight).abs().sum(dim=inputs, keepdim=True)
    return summed.transpose(1, 0)


@fault("DoRA", at="peft.tuners.lora.dora:DoraLinearLayer.update_layer", case=_DORA)
def dora_magnitude_starts_at_one(original: Original, self: Any, **kwargs: Any) -> None:
    """The magnitude starts at 1 instead of the norm of the weight."""
    original(self, **kwargs)
    torch.nn.init.ones_(self.weight)


@fault("DoRA", at="peft:get_peft_model", case=_DORA)
def dora_magnitude_frozen(original: Original, *args: Any, **kwargs: Any) -> Any:
    """The magnitude does not train."""
    model = original(*args, **kwargs)
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.requires_grad = False
    return model


@fault("DoRA", at="peft.tuners.lora.variants:_DoraConvNdVariant.merge_unsafe", case=_DORA)
def dora_merge_forgets_the_magnitude(
    _original: Original, module: Any, adapter: str, weight: Tensor
) -> None:
    """Merging adds the update and leaves the magnitude out."""
    weight.data += module.get_delta_weight(adapter)
