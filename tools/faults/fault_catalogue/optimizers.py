"""What torch, or a library that brings its own, could get wrong in an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

# The head alone: what an optimizer gets wrong shows in any parameter, and these bounds are tight.
_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_LORA_PLUS: Final = "shift/loraplus-r4/shufflenet_v2_x0_5"

_INIT: Final = "torch.optim.adamw:AdamW.__init__"
_UPDATE: Final = "torch.optim.adam:_single_tensor_adam"
_GROUP: Final = "torch.optim.adamw:AdamW._init_group"
_ZERO: Final = "torch.optim.optimizer:Optimizer.zero_grad"


# --- Its settings ---------------------------------------------------------------------------------


@fault("optimizers", at=_INIT, case=_HEAD)
def adam_decays_weights(original: Original, self: Any, params: Any, **kwargs: Any) -> None:
    """Weight decay is on at 0.01, torch's default, although none was asked for."""
    original(self, params, **{**kwargs, "weight_decay": 0.01})


@fault("optimizers", at=_INIT, case=_HEAD)
def adam_eps_changed(original: Original, self: Any, params: Any, **kwargs: Any) -> None:
    """Eps is 1e-8, torch's default, instead of the 1e-6 that was asked for."""
    original(self, params, **{**kwargs, "eps": 1e-8})


@fault("optimizers", at=_INIT, case=_HEAD)
def adam_betas_swapped(original: Original, self: Any, params: Any, **kwargs: Any) -> None:
    """The decay rates of the two moments are swapped."""
    original(self, params, **{**kwargs, "betas": kwargs["betas"][::-1]})


@fault("optimizers", at=_INIT, case=_HEAD)
def adam_keeps_a_third_moment(original: Original, self: Any, params: Any, **kwargs: Any) -> None:
    """AMSGrad is on, which keeps the largest second moment as well."""
    original(self, params, **{**kwargs, "amsgrad": True})


@fault("optimizers", at=_INIT, case=_HEAD, stops=True)
def adam_ignores_foreach(original: Original, self: Any, params: Any, **kwargs: Any) -> None:
    """One kernel updates all tensors although foreach=False was asked for."""
    original(self, params, **{**kwargs, "foreach": True})


# --- Its update -----------------------------------------------------------------------------------


@fault("optimizers", at="torch.optim.adam:_get_value", case=_HEAD)
def adam_without_bias_correction(original: Original, step: Tensor) -> Any:
    """The moments are not corrected for their start at zero."""
    return original(step) + 1e6


@fault("optimizers", at=_UPDATE, case=_HEAD)
def adam_copies_each_gradient(
    original: Original, params: list[Tensor], grads: list[Tensor], *args: Any, **kwargs: Any
) -> None:
    """Each gradient is copied before it is used: the same update by a slower step."""
    original(params, [grad.clone() for grad in grads], *args, **kwargs)


@fault("optimizers", at=_GROUP, case=_HEAD)
def adam_second_moment_in_bfloat16(
    original: Original, self: Any, group: Any, *lists: list[Tensor]
) -> Any:
    """The second moment is kept in bfloat16."""
    return _with_second_moment(torch.bfloat16, original, self, group, *lists)


@fault("optimizers", at=_GROUP, case=_HEAD)
def adam_second_moment_in_float64(
    original: Original, self: Any, group: Any, *lists: list[Tensor]
) -> Any:
    """The second moment is kept in double precision."""
    return _with_second_moment(torch.float64, original, self, group, *lists)


def _with_second_moment(
    dtype: torch.dtype, original: Original, self: Any, group: Any, *lists: list[Tensor]
) -> Any:
    found = original(self, group, *lists)
    parameters, _, _, squares, *_ = lists
    for index, parameter in enumerate(parameters):
        state = self.state[parameter]
        state["exp_avg_sq"] = squares[index] = state["exp_avg_sq"].to(dtype)
    return found


@fault("optimizers", at="torch.optim.optimizer:Optimizer.add_param_group", case=_HEAD)
def optimizer_skips_a_parameter(original: Original, self: Any, group: dict[str, Any]) -> None:
    """The last parameter of a group is never updated."""
    original(self, {**group, "params": list(group["params"])[:-1]})


@fault("optimizers", at="peft.optimizers:create_loraplus_optimizer", case=_LORA_PLUS)
def loraplus_ratio_ignored(original: Original, *args: Any, **kwargs: Any) -> Any:
    """LoRA+ gives B the learning rate of A."""
    return original(*args, **{**kwargs, "loraplus_lr_ratio": 1})


# --- The gradients --------------------------------------------------------------------------------


@fault("optimizers", at=_ZERO, case=_HEAD)
def gradients_accumulate(
    _original: Original,
    self: Any,
    set_to_none: bool = True,  # noqa: FBT001, FBT002
) -> None:
    """Gradients are not set to zero between steps, so that they add up."""
    self.last_asked = set_to_none


@fault("optimizers", at=_ZERO, case="shift/full/shufflenet_v2_x0_5")
def gradients_kept_alive(
    original: Original,
    self: Any,
    set_to_none: bool = True,  # noqa: FBT001, FBT002, ARG001
) -> None:
    """Gradients are set to zero instead of freed, and stay in memory in the forward pass."""
    original(self, set_to_none=False)
