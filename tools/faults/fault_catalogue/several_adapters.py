"""What peft could get wrong in merging in place, and with a second adapter on the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fault_catalogue.fault import fault
from fault_catalogue.own_case import OWN, OWN_WITHOUT_BIASES

if TYPE_CHECKING:
    from fault_catalogue.fault import Original

_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"
_SAVED_MODULE: Final = "peft.utils.other:ModulesToSaveWrapper"
_DELETE: Final = "peft.tuners.lora.layer:LoraLayer.delete_adapter"


@fault("several adapters", at=f"{_LAYER}.unmerge", case=_LORA)
def unmerge_scales_wrongly(original: Original, self: Any) -> None:
    """Unmerging takes out a thousandth too much."""
    for name in self.merged_adapters:
        self.get_base_layer().weight.data -= 0.001 * self.get_delta_weight(name)
    original(self)


@fault("several adapters", at=f"{_LAYER}.merge", case=_LORA)
def safe_merge_writes_before_it_checks(original: Original, self: Any, **settings: Any) -> None:
    """A safe merge refuses an adapter with a NaN after it was written into the base."""
    if settings.get("safe_merge"):
        weight = self.get_base_layer().weight
        before = weight.data.clone()
        original(self, **{**settings, "safe_merge": False})
        merged, self.merged_adapters = weight.data, []
        weight.data = before if merged.isfinite().all() else merged
    original(self, **settings)


@fault("several adapters", at=f"{_LAYER}.merge", case=_LORA)
def safe_merge_checks_nothing(original: Original, self: Any, **settings: Any) -> None:
    """A safe merge is a merge like any other."""
    original(self, **{**settings, "safe_merge": False})


@fault("several adapters", at=f"{_LAYER}.update_layer", case=_LORA)
def second_adapter_shares_b(
    original: Original, self: Any, name: str, *args: Any, **settings: Any
) -> None:
    """A second adapter gets the first one's B instead of one of its own."""
    first = next(iter(self.lora_B), name)
    original(self, name, *args, **settings)
    self.lora_B[name].weight.data = self.lora_B[first].weight.data


@fault("several adapters", at="peft.tuners.tuners_utils:BaseTuner.set_adapter", case=_LORA)
def switching_leaves_the_other_on(
    original: Original, self: Any, name: Any, *args: Any, **settings: Any
) -> None:
    """Activating one adapter leaves those on that were active."""
    names = [name] if isinstance(name, str) else name
    original(self, list(dict.fromkeys([*self.active_adapters, *names])), *args, **settings)


@fault("several adapters", at=_DELETE, case=_LORA)
def delete_leaves_a_setting(original: Original, self: Any, name: str) -> None:
    """The scaling of a deleted adapter stays in its layers."""
    scaling = self.scaling[name]
    original(self, name)
    self.scaling[name] = scaling


@fault("several adapters", at=_DELETE, case=_LORA)
def delete_freezes_the_rest(original: Original, self: Any, name: str) -> None:
    """Deleting an adapter freezes the adapter that is left."""
    original(self, name)
    self.requires_grad_(requires_grad=False)


@fault("several adapters", at="peft.tuners.lora.layer:check_adapters_to_merge", case=_LORA)
def merging_again_adds_it_again(_original: Original, layer: Any, names: Any = None) -> Any:
    """A merged adapter is merged once more, and added twice."""
    return names or layer.active_adapters


@fault("several adapters", at=f"{_LAYER}.merge", case=_LORA)
def second_merge_is_wrong(original: Original, self: Any, **settings: Any) -> None:
    """After merging and unmerging, the next merge adds a thousandth too much."""
    original(self, **settings)
    self.merges = getattr(self, "merges", 0) + 1
    if self.merges > 1:
        for name in self.merged_adapters:
            self.get_base_layer().weight.data += 0.001 * self.get_delta_weight(name)


@fault("several adapters", at=f"{_LAYER}.unmerge", case=_LORA)
def second_unmerge_is_wrong(original: Original, self: Any) -> None:
    """After merging again, unmerging takes out a thousandth too much."""
    self.unmerges = getattr(self, "unmerges", 0) + 1
    if self.unmerges > 1:
        for name in self.merged_adapters:
            self.get_base_layer().weight.data -= 0.001 * self.get_delta_weight(name)
    original(self)


@fault("several adapters", at="peft.tuners.lora.layer:check_adapters_to_merge", case=_LORA)
def merge_takes_all_adapters(original: Original, layer: Any, names: Any = None) -> Any:
    """Merging takes the adapters that are not active as well."""
    return original(layer, names or list(layer.lora_A))


@fault("several adapters", at="peft.tuners.tuners_utils:BaseTunerLayer.set_adapter", case=_LORA)
def second_active_adapter_is_ignored(
    original: Original, self: Any, names: Any, *args: Any, **settings: Any
) -> None:
    """Of two adapters that are activated together, the second one stays off."""
    original(self, names if isinstance(names, str) else names[:1], *args, **settings)


@fault("several adapters", at=f"{_SAVED_MODULE}.enable_adapters", case=OWN.id)
def disabling_leaves_saved_modules_on(_original: Original, _self: Any, _enabled: Any) -> None:
    """Disabling an adapter leaves its copies of whole modules on."""


@fault("several adapters", at=f"{_SAVED_MODULE}.set_adapter", case=OWN_WITHOUT_BIASES.id)
def switching_leaves_saved_modules(
    original: Original, self: Any, names: Any, *args: Any, **settings: Any
) -> None:
    """Activating another adapter leaves the first one's copies of whole modules on."""
    original(self, names and list(self.modules_to_save)[:1], *args, **settings)


@fault("several adapters", at="peft.peft_model:PeftModel.train", case=_LORA)
def train_after_eval_freezes(original: Original, self: Any, mode: bool = True) -> Any:  # noqa: FBT001, FBT002
    """Training mode after eval mode freezes the adapter."""
    if mode and not self.training:
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad = False
    return original(self, mode)


@fault("several adapters", at="peft.peft_model:PeftModel.train", case=_LORA)
def train_after_eval_halves(original: Original, self: Any, mode: bool = True) -> Any:  # noqa: FBT001, FBT002
    """Training mode after eval mode halves what the adapter adds."""
    if mode and not self.training:
        for module in self.modules():
            if hasattr(module, "lora_B"):
                module.scaling = {name: scale / 2 for name, scale in module.scaling.items()}
    return original(self, mode)
