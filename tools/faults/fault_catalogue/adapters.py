"""What peft could get wrong in DoRA and in the adapters of the extended matrix."""

from typing import Final

import torch

from fault_catalogue.fault import Faults, fault, passing

_LAYER: Final = "peft.tuners.lora.dora:_DoraConvNdLayer"


class Dora(Faults, area="DoRA", case="dora-r4"):
    dora_base_computed_twice = passing(
        "The base convolution runs again inside the magnitude's layer, as before peft 0.15.",
        {"base_result": None},
        at=f"{_LAYER}.forward",
    )

    @fault(at=f"{_LAYER}.forward")
    def dora_norm_not_detached(
        _original, self, x, *, lora_A, lora_B, scaling, base_layer, base_result, **_kwargs
    ):
        """The gradient flows through the norm of the weight, a constant in the paper."""
        product = lora_B.weight.flatten(1) @ lora_A.weight.flatten(1)
        update = product.reshape(base_layer.weight.shape)
        factor = self.weight / self.get_weight_norm(base_layer.weight, update, scaling)
        if base_layer.bias is not None:
            base_result = base_result - base_layer.bias.reshape(factor.shape)
        return (factor - 1) * base_result + factor * lora_B(lora_A(x)) * scaling

    @fault(at=f"{_LAYER}.get_weight_norm")
    def dora_norm_of_the_base_alone(original, self, weight, lora_weight, scaling, **_):
        """The magnitude is divided by the norm of the base weight, without the update."""
        return original(self, weight, lora_weight, scaling * 0)

    @fault(at=f"{_LAYER}.get_weight_norm")
    def dora_norm_of_another_order(_original, _self, weight, lora_weight, scaling, **_):
        """The norm sums absolute values instead of squares, in the magnitude as in its divisor."""
        inputs = tuple(range(1, weight.ndim))
        summed = (weight + scaling * lora_weight).abs().sum(dim=inputs, keepdim=True)
        return summed.transpose(1, 0)

    @fault(at="peft.tuners.lora.dora:DoraLinearLayer.update_layer")
    def dora_magnitude_starts_at_one(original, self, **kwargs):
        """The magnitude starts at 1 instead of the norm of the weight."""
        original(self, **kwargs)
        torch.nn.init.ones_(self.weight)

    @fault(at="peft:get_peft_model")
    def dora_magnitude_frozen(original, *args, **kwargs):
        """The magnitude does not train."""
        model = original(*args, **kwargs)
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.requires_grad = False
        return model

    @fault(at="peft.tuners.lora.variants:_DoraConvNdVariant.merge_unsafe")
    def dora_merge_forgets_the_magnitude(_original, module, adapter, weight):
        """Merging adds the update and leaves the magnitude out."""
        weight.data += module.get_delta_weight(adapter)


class OtherAdapters(Faults, area="other adapters", case="lokr-r4"):
    @fault(at="peft.tuners.loha.layer:HadaWeight.forward", case="loha-r4")
    def loha_products_added(original, ctx, w1a, w1b, w2a, w2b, scale):
        """The two products of LoHa are added instead of multiplied with each other."""
        original(ctx, w1a, w1b, w2a, w2b, scale)
        return ((w1a @ w1b) + (w2a @ w2b)) * scale

    @fault(at="peft.tuners.loha.layer:HadaWeight.backward", case="loha-r4")
    def loha_gradient_of_the_other_product(original, ctx, grad):
        """The gradients of LoHa's two products are swapped."""
        of_w1a, of_w1b, of_w2a, of_w2b, none = original(ctx, grad)
        return of_w2a, of_w2b, of_w1a, of_w1b, none

    @fault(at="peft.tuners.lokr.layer:make_kron")
    def lokr_product_changed(_original, w1, w2, scale):
        """LoKr's Kronecker product takes its factors in the other order."""
        if w2.ndim == 4:
            w1 = w1.unsqueeze(2).unsqueeze(2)
        plain = (factor.clone(memory_format=torch.contiguous_format) for factor in (w2, w1))
        return torch.kron(*plain) * scale

    @fault(at="peft.tuners.lokr.layer:make_kron")
    def lokr_scaling_doubled(original, w1, w2, scale):
        """LoKr's scaling is twice alpha / r."""
        return original(w1, w2, 2 * scale)

    @fault(at="peft.tuners.lokr.layer:make_kron")
    def lokr_scaling_left_out(original, w1, w2, _scale):
        """LoKr is not scaled at all, as before peft 0.14."""
        return original(w1, w2, 1.0)

    @fault(at="peft.tuners.ia3.layer:IA3Layer.reset_ia3_parameters", case="ia3")
    def ia3_starts_off_one(original, self, adapter):
        """The factors of IA3 start at 1.01 instead of 1."""
        original(self, adapter)
        torch.nn.init.constant_(self.ia3_l[adapter], 1.01)

    @fault(at="peft.tuners.adalora.model:AdaLoraModel.update_and_allocate", case="adalora-r4")
    def adalora_budget_never_falls(_original, self, global_step):
        """AdaLoRA keeps the ranks that it starts with."""
        self.last_step = global_step

    @fault(at="peft.tuners.tuners_utils:BaseTuner._cast_adapter_dtype", case="lora-bf16-r4")
    def adapter_left_in_half_precision(original, self, adapter_name, autocast_adapter_dtype=True):
        """On a bfloat16 base the adapter is in bfloat16 too, where float32 was asked for."""
        original(self, adapter_name, autocast_adapter_dtype=False)
