"""What peft could get wrong in LoRA."""

from typing import Final
from unittest.mock import patch

import torch
from torch.func import functional_call

from fault_catalogue.costs import KEPT
from fault_catalogue.fault import Faults, InjectedError, fault
from fault_catalogue.later_steps import LateDropout

_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"
_TUNER: Final = "peft.tuners.tuners_utils:BaseTuner"
_TUNER_LAYER: Final = "peft.tuners.tuners_utils:BaseTunerLayer"


class Lora(Faults, area="LoRA", case="lora-r4"):
    # The wrapping.
    @fault(at="peft.tuners.lora.model:LoraModel._create_and_replace")
    def lora_layer_not_wrapped(original, self, *args, **kwargs):
        """One of the layers that were asked for is left without an adapter."""
        self.left_out = getattr(self, "left_out", kwargs["current_key"])
        if kwargs["current_key"] != self.left_out:
            original(self, *args, **kwargs)

    @fault(at="peft.tuners.lora.model:LoraModel._create_and_replace", stops=True)
    def lora_refuses_convolutions(*_args, **_kwargs):
        """The library no longer supports convolutions as targets."""
        raise InjectedError("Target module Conv2d is not supported")

    @fault(at=f"{_TUNER}._mark_only_adapters_as_trainable", also=("vera", "oft"))
    def lora_half_of_the_layers_frozen(original, self, model):
        """Every other adapter is left frozen."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        original(self, model)
        layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers[::2]:
            layer.requires_grad_(requires_grad=False)

    @fault(at=f"{_LAYER}.update_layer")
    def lora_rank_clamped(original, self, adapter, r, *args, **kwargs):
        """A rank above 2 becomes 2, without a message."""
        original(self, adapter, min(r, 2), *args, **kwargs)

    @fault(at=f"{_LAYER}.update_layer", case="lora-r16")
    def lora_rank_of_at_most_16(original, self, adapter, r, *args, **kwargs):
        """A rank above 16 becomes 16."""
        original(self, adapter, min(r, 16), *args, **kwargs)

    @fault(at="peft.tuners.lora.model:LoraModel._replace_module")
    def lora_hook_leaked(original, self, parent, name, new, *args):
        """Wrapping leaves a forward hook behind, which looks at every output."""
        original(self, parent, name, new, *args)
        new.register_forward_hook(_look_at)

    # How it starts.
    @fault(at="peft.tuners.lora.layer:LoraLayer.reset_lora_parameters")
    def lora_b_not_zero(original, self, adapter, how):
        """B starts at small random numbers instead of zero."""
        original(self, adapter, how)
        torch.nn.init.normal_(self.lora_B[adapter].weight, std=1e-3)

    @fault(at="peft.tuners.lora.layer:LoraLayer.reset_lora_parameters")
    def lora_a_zero(original, self, adapter, how):
        """A starts at zero, as B does, so that neither has a gradient."""
        original(self, adapter, how)
        torch.nn.init.zeros_(self.lora_A[adapter].weight)

    @fault(at="peft.tuners.lora.layer:LoraLayer.reset_lora_parameters")
    def lora_a_gaussian(original, self, adapter, _how):
        """A starts Gaussian, of standard deviation 1/r, instead of Kaiming uniform."""
        original(self, adapter, "gaussian")

    @fault(at="peft:get_peft_model", also=("prefix",))
    def lora_drawn_under_another_seed(original, *args, **kwargs):
        """A number is drawn before the adapter, so that the same seed gives another adapter."""
        torch.rand(1)
        return original(*args, **kwargs)

    # What it computes.
    @fault(at=f"{_LAYER}.update_layer")
    def lora_scaling_doubled(original, self, adapter, *args, **kwargs):
        """The scaling is twice alpha / r."""
        original(self, adapter, *args, **kwargs)
        self.scaling[adapter] *= 2

    @fault(at=f"{_LAYER}.forward", case="rslora-r4")
    def rslora_scaling_left_out(original, self, x, **kwargs):
        """The forward pass does not multiply by the scaling; merging does."""
        with patch.object(self, "scaling", dict.fromkeys(self.scaling, 1.0)):
            return original(self, x, **kwargs)

    @fault(at=f"{_LAYER}.update_layer", case="rslora-r4")
    def rslora_scaled_as_lora(original, self, adapter, r, *args, **kwargs):
        """The scaling is alpha / r instead of the rank-stabilized alpha / sqrt(r)."""
        original(self, adapter, r, *args, **kwargs)
        self.scaling[adapter] = self.lora_alpha[adapter] / r

    @fault(at=f"{_LAYER}.forward", also=("vera", "oft"))
    def lora_base_computed_twice(original, self, x, **kwargs):
        """Each layer computes its base a second time, for nothing."""
        self.base_layer(x)
        return original(self, x, **kwargs)

    @fault(at=f"{_LAYER}.forward")
    def lora_computed_in_float64(original, self, x):
        """The low-rank path is computed in double precision, which doubles its activations."""
        if self.disable_adapters or self.merged:
            return original(self, x)
        result = self.base_layer(x)
        for name in self.active_adapters:
            update = x.double()
            for part in (self.lora_A[name], self.lora_B[name]):
                update = functional_call(part, {"weight": part.weight.double()}, (update,))
            result = result + update.to(x.dtype) * self.scaling[name]
        return result

    @fault(at=f"{_LAYER}.update_layer")
    def lora_dropout_left_on(original, self, adapter, *args, **kwargs):
        """A dropout that was not asked for is on, in eval mode too."""
        original(self, adapter, *args, **kwargs)
        self.lora_dropout[adapter] = LateDropout(after=-1)  # before the first step too

    @fault(at=f"{_LAYER}.update_layer", case="shift/lora-dropout-r4/mobilenet_v3_small")
    def dropout_of_lora_ignored(original, self, adapter, *args, **kwargs):
        """The configuration's `lora_dropout` has no effect."""
        original(self, adapter, *args, **kwargs)
        self.lora_dropout[adapter] = torch.nn.Identity()

    @fault(at=f"{_LAYER}.forward", also=("ia3",))
    def lora_activations_kept_alive(original, self, x, **kwargs):
        """Each layer keeps all its inputs in memory, also after the step."""
        KEPT.append(x)
        return original(self, x, **kwargs)

    @fault(at=f"{_LAYER}.forward")
    def lora_frozen_weight_drifts(original, self, x, **kwargs):
        """The frozen weight of the base layer shrinks a little at each training step."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.base_layer.weight.mul_(1 - 1e-6)
        return original(self, x, **kwargs)

    @fault(at=f"{_LAYER}.forward")
    def lora_forgets_the_memory_format(original, self, x, **kwargs):
        """Images that lie channels last are copied into the default format at each layer."""
        return original(self, x.contiguous(), **kwargs)

    # Merging, and switching it off.
    @fault(at=f"{_LAYER}.get_delta_weight")
    def lora_merge_scales_one_layer_wrongly(original, self, adapter):
        """Merging takes one layer's update times 1.1."""
        update = original(self, adapter)
        # Outputs of a layer of the gate's case, and of the fuzzer's networks.
        return update * 1.1 if len(update) in {1024, 8} else update

    @fault(at=f"{_LAYER}.merge", case="shift/lora-r1/mobilenet_v3_small")
    def lora_merge_forgets_the_bias(original, self, *args, **kwargs):
        """The merged layer has no bias where the base layer had one."""
        original(self, *args, **kwargs)
        if self.base_layer.bias is not None:
            self.base_layer.bias.data.zero_()

    @fault(at=f"{_TUNER_LAYER}.enable_adapters", also=("ia3", "fourierft"))
    def lora_disabled_stays_on(_original, self, enabled):
        """Disabling the adapter leaves it on."""
        self.last_asked = enabled

    @fault(at=f"{_TUNER_LAYER}.enable_adapters")
    def lora_frozen_once_disabled(original, self, enabled):
        """An adapter that was disabled and enabled again computes, but no longer trains."""
        original(self, enabled)
        self.requires_grad_(requires_grad=False)


def _look_at(_module, _inputs, output):
    # An attention returns its weights as well.
    (output[0] if isinstance(output, tuple) else output).detach().abs().amax()
