"""What torchvision, or the loading of the source model, could get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from fault_catalogue.fault import Original

_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_FULL: Final = "shift/full/shufflenet_v2_x0_5"
_BUILD: Final = "peft_regress.catalogue.architectures.torchvision_models:_build"
_SOURCE: Final = "peft_regress.catalogue.sources:source_model"


@fault("base model", at=_SOURCE, case=_HEAD)
def running_statistics_not_loaded(original: Original, *args: Any) -> Any:
    """The source model comes without the running statistics of its BatchNorm layers."""
    model = original(*args)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    return model


@fault("base model", at=_SOURCE, case=_HEAD)
def one_layer_not_loaded(original: Original, architecture: Any, state: Any) -> Any:
    """One convolution of the source model keeps its random weight."""
    drawn = architecture.build(num_classes=10, seed=0).state_dict()
    name = next(name for name in state if name.endswith("weight") and state[name].ndim == 4)
    return original(architecture, {**state, name: drawn[name]})


@fault("base model", at=_BUILD, case=_HEAD)
def batch_norm_eps_changed(original: Original, *args: Any) -> Any:
    """A release of torchvision builds BatchNorm with an eps of 1e-3 instead of 1e-5."""
    model = original(*args)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    return model


@fault("base model", at=_BUILD, case=_HEAD)
def stride_changed(original: Original, *args: Any) -> Any:
    """A release of torchvision builds the first convolution with a stride of 1 instead of 2."""
    model = original(*args)
    next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).stride = (1, 1)
    return model


@fault("base model", at=_BUILD, case=_FULL)
def activations_not_in_place(original: Original, *args: Any) -> Any:
    """A release of torchvision builds ReLU so that it keeps its input beside its output."""
    model = original(*args)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return model
