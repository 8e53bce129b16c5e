"""What could go wrong with BatchNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import nn

    from fault_catalogue.fault import Original

_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_BN_HEAD: Final = "shift/bn_head/shufflenet_v2_x0_5"
_OWN_MOMENTUM: Final = "shift/bn_head/mobilenet_v3_small"
_MODES: Final = "peft_regress.catalogue.built_in:set_modes"


@fault("BatchNorm", at=_MODES, case=_HEAD)
def batch_norm_left_in_train_mode(
    _original: Original,
    model: nn.Module,
    *,
    batch_norm_statistics: bool,  # noqa: ARG001
) -> None:
    """The model trains in train mode, so that frozen running statistics move."""
    model.train()


@fault("BatchNorm", at=_MODES, case=_BN_HEAD)
def statistics_not_re_estimated(
    original: Original,
    model: nn.Module,
    *,
    batch_norm_statistics: bool,  # noqa: ARG001
) -> None:
    """The statistics should follow the new data, but stay those of the source."""
    original(model, batch_norm_statistics=False)


@fault(
    "BatchNorm",
    at="peft_regress.catalogue.methods.selective:set_batch_norm_momentum",
    case=_OWN_MOMENTUM,
)
def momentum_not_set(_original: Original, model: nn.Module, momentum: float) -> None:
    """The statistics follow with the architecture's own momentum, 0.01 instead of 0.1."""


@fault("BatchNorm", at="peft_regress.catalogue.methods.selective:Selective.adapt", case=_BN_HEAD)
def weights_of_batch_norm_train(original: Original, self: Any, model: Any, **kwargs: Any) -> Any:
    """Weight and bias of each BatchNorm train, but only the statistics should change."""
    from torch.nn.modules.batchnorm import _BatchNorm

    adapted = original(self, model, **kwargs)
    for module in adapted.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(requires_grad=True)
    return adapted


@fault("BatchNorm", at="torch.nn.modules.batchnorm:_BatchNorm.forward", case=_BN_HEAD)
def statistics_move_twice(original: Original, self: Any, x: Any) -> Any:
    """Each batch moves the running statistics twice."""
    original(self, x)
    return original(self, x)
