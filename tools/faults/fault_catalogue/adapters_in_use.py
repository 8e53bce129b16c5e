"""What peft, or this project, could get wrong in merging, switching, saving and loading."""

import re
from pathlib import Path
from typing import Final

from fault_catalogue.fault import Faults, fault, passing
from fault_catalogue.own_case import OWN, OWN_WITHOUT_BIASES

_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"
_SAVED_MODULE: Final = "peft.utils.other:ModulesToSaveWrapper"
_DELETE: Final = "peft.tuners.lora.layer:LoraLayer.delete_adapter"
# Of which baselines/adapters/ has what an earlier run saved.
# Where peft's own saving looks it up, and where it is called to learn what ships.
_SAVE: Final = ("peft.peft_model:get_peft_model_state_dict", "peft:get_peft_model_state_dict")
_LOAD: Final = "peft.peft_model:set_peft_model_state_dict"


class SeveralAdapters(Faults, area="several adapters", case="lora-r4"):
    @fault(at=f"{_LAYER}.unmerge")
    def unmerge_scales_wrongly(original, self):
        """Unmerging takes out a thousandth too much."""
        for name in self.merged_adapters:
            self.get_base_layer().weight.data -= 0.001 * self.get_delta_weight(name)
        original(self)

    @fault(at=f"{_LAYER}.merge")
    def safe_merge_writes_before_it_checks(original, self, **settings):
        """A safe merge refuses an adapter with a NaN after it was written into the base."""
        if settings.get("safe_merge"):
            weight = self.get_base_layer().weight
            before = weight.data.clone()
            original(self, **{**settings, "safe_merge": False})
            merged, self.merged_adapters = weight.data, []
            weight.data = before if merged.isfinite().all() else merged
        original(self, **settings)

    safe_merge_checks_nothing = passing(
        "A safe merge is a merge like any other.", {"safe_merge": False}, at=f"{_LAYER}.merge"
    )

    @fault(at=f"{_LAYER}.update_layer")
    def second_adapter_shares_b(original, self, name, *args, **settings):
        """A second adapter gets the first one's B instead of one of its own."""
        first = next(iter(self.lora_B), name)
        original(self, name, *args, **settings)
        self.lora_B[name].weight.data = self.lora_B[first].weight.data

    @fault(at="peft.tuners.tuners_utils:BaseTuner.set_adapter")
    def switching_leaves_the_other_on(original, self, name, *args, **settings):
        """Activating one adapter leaves those on that were active."""
        names = [name] if isinstance(name, str) else name
        original(self, list(dict.fromkeys([*self.active_adapters, *names])), *args, **settings)

    @fault(at=_DELETE)
    def delete_leaves_a_setting(original, self, name):
        """The scaling of a deleted adapter stays in its layers."""
        scaling = self.scaling[name]
        original(self, name)
        self.scaling[name] = scaling

    @fault(at=_DELETE)
    def delete_freezes_the_rest(original, self, name):
        """Deleting an adapter freezes the adapter that is left."""
        original(self, name)
        self.requires_grad_(requires_grad=False)

    @fault(at="peft.tuners.lora.layer:check_adapters_to_merge")
    def merging_again_adds_it_again(_original, layer, names=None):
        """A merged adapter is merged once more, and added twice."""
        return names or layer.active_adapters

    @fault(at=f"{_LAYER}.merge")
    def second_merge_is_wrong(original, self, **settings):
        """After merging and unmerging, the next merge adds a thousandth too much."""
        original(self, **settings)
        self.merges = getattr(self, "merges", 0) + 1
        if self.merges > 1:
            for name in self.merged_adapters:
                self.get_base_layer().weight.data += 0.001 * self.get_delta_weight(name)

    @fault(at=f"{_LAYER}.unmerge")
    def second_unmerge_is_wrong(original, self):
        """After merging again, unmerging takes out a thousandth too much."""
        self.unmerges = getattr(self, "unmerges", 0) + 1
        if self.unmerges > 1:
            for name in self.merged_adapters:
                self.get_base_layer().weight.data -= 0.001 * self.get_delta_weight(name)
        original(self)

    @fault(at="peft.tuners.lora.layer:check_adapters_to_merge")
    def merge_takes_all_adapters(original, layer, names=None):
        """Merging takes the adapters that are not active as well."""
        return original(layer, names or list(layer.lora_A))

    @fault(at="peft.tuners.tuners_utils:BaseTunerLayer.set_adapter")
    def second_active_adapter_is_ignored(original, self, names, *args, **settings):
        """Of two adapters that are activated together, the second one stays off."""
        original(self, names if isinstance(names, str) else names[:1], *args, **settings)

    @fault(at=f"{_SAVED_MODULE}.enable_adapters", case=OWN.id)
    def disabling_leaves_saved_modules_on(_original, _self, _enabled):
        """Disabling an adapter leaves its copies of whole modules on."""

    @fault(at=f"{_SAVED_MODULE}.set_adapter", case=OWN_WITHOUT_BIASES.id)
    def switching_leaves_saved_modules(original, self, names, *args, **settings):
        """Activating another adapter leaves the first one's copies of whole modules on."""
        original(self, names and list(self.modules_to_save)[:1], *args, **settings)

    @fault(at="peft.peft_model:PeftModel.train")
    def train_after_eval_freezes(original, self, mode=True):
        """Training mode after eval mode freezes the adapter."""
        if mode and not self.training:
            self.set_requires_grad(self.active_adapters, requires_grad=False)
        return original(self, mode)

    @fault(at="peft.peft_model:PeftModel.train")
    def train_after_eval_halves(original, self, mode=True):
        """Training mode after eval mode halves what the adapter adds."""
        if mode and not self.training:
            for module in self.modules():
                if hasattr(module, "lora_B"):
                    module.scaling = {name: scale / 2 for name, scale in module.scaling.items()}
        return original(self, mode)


class Serialisation(Faults, area="serialisation", case="lora-r4"):
    @fault(at=_SAVE, also=("vera", "ia3", "fourierft", "oft"))
    def saved_without_one_layer(original, *args, **kwargs):
        """The saved adapter lacks its first layer."""
        state = original(*args, **kwargs)
        layer = re.split(r"_proj\.|\.lora_", next(iter(state)))[0]
        return {name: tensor for name, tensor in state.items() if not name.startswith(layer)}

    @fault(at=_SAVE, also=("prefix",))
    def saved_in_half_precision(original, *args, **kwargs):
        """The adapter is saved in float16."""
        return {name: tensor.half() for name, tensor in original(*args, **kwargs).items()}

    @fault(at=_LOAD)
    def loading_skipped(original, model, state, **kwargs):
        """The names have a new prefix that the model lacks, and loading gives no error."""
        return original(model, {f"model.{name}": state[name] for name in state}, **kwargs)

    @fault(at=_LOAD)
    def loaded_adapter_is_frozen(original, model, state, **kwargs):
        """An adapter that was loaded no longer trains, although is_trainable was asked for."""
        result = original(model, state, **kwargs)
        model.set_requires_grad(kwargs["adapter_name"], requires_grad=False)
        return result

    @fault(at=(*_SAVE, _LOAD), case="lora-r1")
    def names_changed_on_both_sides(original, model, *args, **kwargs):
        """A release saves and reads other names only, so that older adapters do not load."""
        if not args:
            state = original(model, **kwargs)
            return {name.replace(".lora_A.", ".lora_down."): state[name] for name in state}
        (state,) = args
        renamed = {name.replace(".lora_down.", ".lora_A."): state[name] for name in state}
        return original(model, renamed, **kwargs)

    @fault(at="peft_regress.catalogue.methods.peft_adapter:head_state")
    def head_not_saved(_original, *_args):
        """The trained head is not saved, so that a loaded adapter has the source's head."""
        return {}

    @fault(at="peft_regress.catalogue.methods.peft_adapter:PeftAdapter.load")
    def head_drawn_anew_on_load(original, *args, **kwargs):
        """Loading draws a new head after it has loaded the saved one."""
        model = original(*args, **kwargs)
        model.get_submodule("base_model.model.fc").reset_parameters()
        return model

    @fault(at="peft_regress.catalogue.methods.selective:Selective.shipped_tensors", case="bn_head")
    def running_statistics_not_saved(original, *args):
        """The re-estimated running statistics are not saved."""
        shipped = original(*args)
        return {name: shipped[name] for name in shipped if ".running_" not in name}

    @fault(at="peft_regress.catalogue.methods.peft_adapter:head_state")
    def head_saved_in_half_precision(original, *args):
        """The trained head is saved in float16."""
        return {name: tensor.half() for name, tensor in original(*args).items()}

    @fault(at=_SAVE, case=OWN.id)
    def saved_module_is_that_of_the_start(original, model, *args, **kwargs):
        """Of a module that trains beside the adapter, the untrained original is saved."""
        state = original(model, *args, **kwargs)
        untrained = model.base_model.model.head.original_module.state_dict()
        return {
            name: untrained[name.rpartition(".")[2]] if ".head." in name else state[name]
            for name in state
        }

    @fault(at=_SAVE, case=OWN.id)
    def trained_biases_not_saved(original, *args, **kwargs):
        """The biases of the base that train beside the adapter are not saved."""
        state = original(*args, **kwargs)
        return {name: state[name] for name in state if ".head." in name or ".lora_" in name}

    @fault(at="peft.peft_model:safe_save_file")
    def saving_keeps_an_old_file(original, state, path, **kwargs):
        """Saving into a folder that has an adapter keeps the old one."""
        if not Path(path).exists():
            original(state, path, **kwargs)

    loading_ignores_another_rank = passing(
        "Tensors of another rank are left out when an adapter is loaded.",
        {"ignore_mismatched_sizes": True},
        at="peft.utils.save_and_load:_find_mismatched_keys",
    )

    @fault(at="peft.peft_model:PeftModel.load_adapter")
    def loading_ignores_absent_tensors(original, *args, **kwargs):
        """Loading an adapter no longer says which of its tensors the file lacks."""
        result = original(*args, **kwargs)
        result.missing_keys.clear()
        return result
