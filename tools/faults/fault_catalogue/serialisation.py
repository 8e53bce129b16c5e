"""What peft, or this project, could get wrong in saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fault_catalogue.fault import fault
from fault_catalogue.own_case import OWN

if TYPE_CHECKING:
    from fault_catalogue.fault import Original

_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
# Of which baselines/adapters/ has what an earlier run saved.
_STORED: Final = "shift/lora-r1/shufflenet_v2_x0_5"
_BN_HEAD: Final = "shift/bn_head/shufflenet_v2_x0_5"
# Where peft's own saving looks it up, and where it is called to learn what ships.
_SAVE: Final = ("peft.peft_model:get_peft_model_state_dict", "peft:get_peft_model_state_dict")
_LOAD: Final = "peft.peft_model:set_peft_model_state_dict"


@fault("serialisation", at=_SAVE, case=_LORA)
def saved_without_one_layer(original: Original, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The saved adapter lacks its first layer."""
    state = original(*args, **kwargs)
    layer = next(iter(state)).partition(".lora_")[0]
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{layer}.lora")}


@fault("serialisation", at=_SAVE, case=_LORA)
def saved_in_half_precision(original: Original, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The adapter is saved in float16."""
    return {name: tensor.half() for name, tensor in original(*args, **kwargs).items()}


@fault("serialisation", at=_LOAD, case=_LORA)
def loading_skipped(original: Original, model: Any, state: Any, **kwargs: Any) -> Any:
    """The names have a new prefix that the model lacks, and loading gives no error."""
    return original(model, {f"model.{name}": state[name] for name in state}, **kwargs)


@fault("serialisation", at=_LOAD, case=_LORA)
def loaded_adapter_is_frozen(original: Original, model: Any, state: Any, **kwargs: Any) -> Any:
    """An adapter that was loaded no longer trains, although is_trainable was asked for."""
    result = original(model, state, **kwargs)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad = False
    return result


@fault("serialisation", at=(*_SAVE, _LOAD), case=_STORED)
def names_changed_on_both_sides(original: Original, model: Any, *args: Any, **kwargs: Any) -> Any:
    """A release saves and reads other names only, so that older adapters do not load."""
    if not args:
        state = original(model, **kwargs)
        return {name.replace(".lora_A.", ".lora_down."): state[name] for name in state}
    (state,) = args
    renamed = {name.replace(".lora_down.", ".lora_A."): state[name] for name in state}
    return original(model, renamed, **kwargs)


@fault("serialisation", at="peft_regress.catalogue.methods.peft_adapter:_head_state", case=_LORA)
def head_not_saved(_original: Original, _model: Any) -> dict[str, Any]:
    """The trained head is not saved, so that a loaded adapter has the source's head."""
    return {}


@fault(
    "serialisation", at="peft_regress.catalogue.methods.peft_adapter:PeftAdapter.load", case=_LORA
)
def head_drawn_anew_on_load(original: Original, *args: Any, **kwargs: Any) -> Any:
    """Loading draws a new head after it has loaded the saved one."""
    model = original(*args, **kwargs)
    model.get_submodule("base_model.model.fc").reset_parameters()
    return model


@fault(
    "serialisation",
    at="peft_regress.catalogue.methods.selective:Selective.shipped_tensors",
    case=_BN_HEAD,
)
def running_statistics_not_saved(original: Original, *args: Any) -> dict[str, Any]:
    """The re-estimated running statistics are not saved."""
    shipped = original(*args)
    return {name: shipped[name] for name in shipped if ".running_" not in name}


@fault("serialisation", at="peft_regress.catalogue.methods.peft_adapter:_head_state", case=_LORA)
def head_saved_in_half_precision(original: Original, model: Any) -> dict[str, Any]:
    """The trained head is saved in float16."""
    return {name: tensor.half() for name, tensor in original(model).items()}


@fault("serialisation", at=_SAVE, case=OWN.id)
def saved_module_is_that_of_the_start(
    original: Original, model: Any, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Of a module that trains beside the adapter, the untrained original is saved."""
    state = original(model, *args, **kwargs)
    untrained = model.base_model.model.head.original_module.state_dict()
    return {
        name: untrained[name.rpartition(".")[2]] if ".head." in name else state[name]
        for name in state
    }


@fault("serialisation", at=_SAVE, case=OWN.id)
def trained_biases_not_saved(original: Original, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The biases of the base that train beside the adapter are not saved."""
    state = original(*args, **kwargs)
    return {name: state[name] for name in state if ".head." in name or ".lora_" in name}


@fault("serialisation", at="peft.peft_model:safe_save_file", case=_LORA)
def saving_keeps_an_old_file(original: Original, state: Any, path: Any, **kwargs: Any) -> None:
    """Saving into a folder that has an adapter keeps the old one."""
    if not Path(path).exists():
        original(state, path, **kwargs)


@fault("serialisation", at="peft.utils.save_and_load:_find_mismatched_keys", case=_LORA)
def loading_ignores_another_rank(
    original: Original, model: Any, state: Any, **_settings: Any
) -> Any:
    """Tensors of another rank are left out when an adapter is loaded."""
    return original(model, state, ignore_mismatched_sizes=True)


@fault("serialisation", at="peft.peft_model:PeftModel.load_adapter", case=_LORA)
def loading_ignores_absent_tensors(original: Original, *args: Any, **kwargs: Any) -> Any:
    """Loading an adapter no longer says which of its tensors the file lacks."""
    result = original(*args, **kwargs)
    result.missing_keys.clear()
    return result
