"""Memory that is in use before or after the step that is profiled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_FORWARD: Final = "peft.tuners.lora.layer:_ConvNd.forward"

_KEPT: Final[list[Tensor]] = []


@fault("memory", at=_FORWARD, case=_LORA)
def input_kept_from_the_fourth_step(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """From the fourth step on each layer keeps its input in memory after the step."""
    self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
    if torch.is_grad_enabled() and self.steps > 3:
        _KEPT.append(x)
    return original(self, x, **kwargs)


@fault("memory", at="torch.optim.adamw:AdamW._init_group", case=_HEAD)
def gradient_kept_from_the_fourth_step(
    original: Original, self: Any, group: Any, params: Any, grads: list[Tensor], *rest: Any
) -> Any:
    """From the fourth step on Adam keeps one gradient of each step in memory."""
    found = original(self, group, params, grads, *rest)
    self.steps = getattr(self, "steps", 0) + 1
    if self.steps > 3:
        _KEPT.append(grads[0])
    return found


@fault("memory", at=_FORWARD, case=_LORA)
def first_step_has_outputs_twice(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """In the first step each layer has its output twice until the backward pass."""
    output = original(self, x, **kwargs)
    self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
    if output.requires_grad and self.steps == 1:
        # The graph holds the hook, and the hook the tensor.
        output.register_hook(partial(_ignore, torch.empty_like(output)))
    return output


def _ignore(_held: Tensor, _gradient: Tensor) -> None:
    pass


@fault("memory", at=_FORWARD, case=_LORA)
def outputs_kept_in_evaluation(original: Original, self: Any, x: Tensor, **kwargs: Any) -> Any:
    """Without gradients each layer keeps its last output in memory."""
    output = original(self, x, **kwargs)
    if torch.is_inference_mode_enabled():
        self.last_output = output
    return output


@fault(
    "memory",
    at=("peft.peft_model:get_peft_model_state_dict", "peft:get_peft_model_state_dict"),
    case=_LORA,
)
def whole_model_copied_to_save(
    original: Original, model: Any, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Saving the adapter copies the whole model first."""
    copies = [parameter.detach().clone() for parameter in model.parameters()]
    state: dict[str, Any] = original(model, *args, **kwargs)
    del copies
    return state
