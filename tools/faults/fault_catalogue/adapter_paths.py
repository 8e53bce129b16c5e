"""What only another way to run an adapter, a resumed training or a late step shows."""

from typing import Final
from unittest.mock import patch

import torch

from fault_catalogue.fault import Faults, fault, passing
from fault_catalogue.later_steps import off_where, scaled
from fault_catalogue.own_case import OWN_WITHOUT_BIASES

_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"


class SeveralAdapters(Faults, area="several adapters", case="lora-r4"):
    @fault(at="peft.tuners.lora.layer:LoraLayer._mixed_batch_forward")
    def mixed_batch_has_no_base(original, self, x, *args, adapter_names, **kwargs):
        """Rows of a mixed batch that ask for the base get the active adapter."""
        names = [self.active_adapters[0] if name == "__base__" else name for name in adapter_names]
        return original(self, x, *args, adapter_names=names, **kwargs)

    @fault(at=f"{_LAYER}.forward", also=("own",))
    def disabled_is_on_in_training(original, self, x, **kwargs):
        """In training mode a disabled adapter stays on."""
        stays_on = self.training and self.disable_adapters
        with patch.object(self, "_disable_adapters", self.disable_adapters and not stays_on):
            return original(self, x, **kwargs)

    @fault(at=f"{_LAYER}.merge")
    def safe_merge_differs(original, self, **settings):
        """A safe merge adds a hundredth too much."""
        original(self, **settings)
        if settings.get("safe_merge"):
            for name in self.merged_adapters:
                self.get_base_layer().weight.data += 0.01 * self.get_delta_weight(name)

    unloading_merges = passing(
        "Unloading an adapter merges it first.",
        {"merge": True},
        at="peft.tuners.tuners_utils:BaseTuner._unload_and_optionally_merge",
    )

    @fault(at="peft.tuners.lora.model:LoraModel.add_weighted_adapter")
    def weighted_adapter_doubles(original, self, adapters, weights, *args, **kwargs):
        """A weighted adapter has twice the weights that were asked for."""
        original(self, adapters, [2 * weight for weight in weights], *args, **kwargs)

    @fault(at="peft.tuners.tuners_utils:BaseTunerLayer.set_adapter", case=OWN_WITHOUT_BIASES.id)
    def switching_ends_dropout(original, self, *args, **kwargs):
        """Activating an adapter puts its layers in eval mode."""
        original(self, *args, **kwargs)
        self.eval()


class Lora(Faults, area="LoRA", at=f"{_LAYER}.forward", case="lora-r4"):
    wrong_without_gradients = off_where(
        "under `no_grad`, and right in inference mode",
        lambda _: not torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
    )
    wrong_on_channels_last = off_where(
        "for images channels last",
        lambda x: not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last),
    )

    def absent_under_autocast(original, self, x, **kwargs):
        """Under autocast LoRA adds nothing."""
        factor = 0.0 if torch.is_autocast_enabled("cpu") else 1.0
        return scaled(factor, original, self, x, **kwargs)


class Serialisation(Faults, area="serialisation", case="lora-r4"):
    @fault(at="peft.peft_model:PeftModel.load_adapter")
    def loading_switches_to_eval(original, self, *args, **kwargs):
        """Loading an adapter to train on puts the whole model in eval mode."""
        result = original(self, *args, **kwargs)
        self.eval()
        return result

    @fault(at=f"{_LAYER}.update_layer")
    def adapters_stay_in_a_global(original, self, name, *args, **kwargs):
        """Each adapter's name stays in a dictionary of the layers' class."""
        original(self, name, *args, **kwargs)
        seen = type(self).seen = vars(type(self)).get("seen", {})
        seen[name] = True

    @fault(at="torch.optim.optimizer:Optimizer.load_state_dict", also=("own",))
    def resumed_without_moments(original, self, state):
        """Loading an optimizer's state leaves its moments out."""
        original(self, {**state, "state": {}})


class LaterSteps(Faults, area="later steps", case="lora-r4"):
    @fault(at="torch.optim.lr_scheduler:LambdaLR.load_state_dict")
    def schedule_starts_again(_original, _self, _state):
        """A schedule that is loaded starts again."""

    @fault(at=f"{_LAYER}.forward", also=("own", "prefix"))
    def two_forward_passes_from_step_six(original, self, x, **kwargs):
        """From the sixth step on each layer computes twice."""
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        if self.steps >= 6 and torch.is_grad_enabled():
            original(self, x, **kwargs)
        return original(self, x, **kwargs)
