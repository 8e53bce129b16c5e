"""What peft could get wrong in the adapters of the extended matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_LOHA: Final = "shift/loha-r4/shufflenet_v2_x0_5"
_LOKR: Final = "shift/lokr-r4/shufflenet_v2_x0_5"
_IA3: Final = "shift/ia3/shufflenet_v2_x0_5"
_ADALORA: Final = "shift/adalora-r4/shufflenet_v2_x0_5"
_HALF: Final = "shift/lora-bf16-r4/shufflenet_v2_x0_5"


@fault("other adapters", at="peft.tuners.loha.layer:HadaWeight.forward", case=_LOHA)
def loha_products_added(  # noqa: PLR0913, PLR0917  (the four factors of LoHa)
    original: Original, ctx: Any, w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor, scale: Tensor
) -> Tensor:
    """The two products of LoHa are added instead of multiplied with each other."""
    original(ctx, w1a, w1b, w2a, w2b, scale)
    return ((w1a @ w1b) + (w2a @ w2b)) * scale


@fault("other adapters", at="peft.tuners.loha.layer:HadaWeight.backward", case=_LOHA)
def loha_gradient_of_the_other_product(original: Original, ctx: Any, grad: Tensor) -> Any:
    """The gradients of LoHa's two products are swapped."""
    of_w1a, of_w1b, of_w2a, of_w2b, none = original(ctx, grad)
    return of_w2a, of_w2b, of_w1a, of_w1b, none


@fault("other adapters", at="peft.tuners.lokr.layer:make_kron", case=_LOKR)
def lokr_product_changed(_original: Original, w1: Tensor, w2: Tensor, scale: float) -> Tensor:
    """LoKr's Kronecker product takes its factors in the other order."""
    if w2.ndim == 4:
        w1 = w1.unsqueeze(2).unsqueeze(2)
    plain = (factor.clone(memory_format=torch.contiguous_format) for factor in (w2, w1))
    return torch.kron(*plain) * scale


@fault("other adapters", at="peft.tuners.lokr.layer:make_kron", case=_LOKR)
def lokr_scaling_doubled(original: Original, w1: Tensor, w2: Tensor, scale: float) -> Any:
    """LoKr's scaling is twice alpha / r."""
    return original(w1, w2, 2 * scale)


@fault("other adapters", at="peft.tuners.lokr.layer:make_kron", case=_LOKR)
def lokr_scaling_left_out(original: Original, w1: Tensor, w2: Tensor, _scale: float) -> Any:
    """LoKr is not scaled at all, as before peft 0.14."""
    return original(w1, w2, 1.0)


@fault("other adapters", at="peft.tuners.ia3.layer:IA3Layer.reset_ia3_parameters", case=_IA3)
def ia3_starts_off_one(original: Original, self: Any, adapter: str) -> None:
    """The factors of IA3 start at 1.01 instead of 1."""
    original(self, adapter)
    torch.nn.init.constant_(self.ia3_l[adapter], 1.01)


@fault(
    "other adapters",
    at="peft.tuners.adalora.model:AdaLoraModel.update_and_allocate",
    case=_ADALORA,
)
def adalora_budget_never_falls(_original: Original, self: Any, global_step: int) -> None:
    """AdaLoRA keeps the ranks that it starts with."""
    self.last_step = global_step


@fault("other adapters", at="peft.tuners.tuners_utils:BaseTuner._cast_adapter_dtype", case=_HALF)
def adapter_left_in_half_precision(
    original: Original,
    self: Any,
    adapter_name: str,
    autocast_adapter_dtype: bool = True,  # noqa: FBT001, FBT002, ARG001
) -> None:
    """On a bfloat16 base the adapter is in bfloat16 too, where float32 was asked for."""
    original(self, adapter_name, autocast_adapter_dtype=False)
