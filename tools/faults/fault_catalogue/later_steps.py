"""Errors that only later steps, or some inputs, ranks or machines show."""

import logging
import os
from functools import lru_cache
from typing import Final
from unittest.mock import patch

import torch
from torch.nn import functional

from fault_catalogue.fault import fault
from peft_regress.catalogue.built_in import STEPS

_LORA: Final = "shift/lora-r4/shufflenet_v2_x0_5"
_RANK_16: Final = "shift/lora-r16/shufflenet_v2_x0_5"
_DROPOUT: Final = "shift/lora-dropout-r4/mobilenet_v3_small"
_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"
_GALORE: Final = "shift/galore-r4/shufflenet_v2_x0_5"
_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_BN_HEAD: Final = "shift/bn_head/shufflenet_v2_x0_5"


@fault("some cases alone", at=f"{_LAYER}.update_layer", case=_RANK_16)
def scaled_wrongly_at_rank_16(original, self, adapter, r, *args, **kwargs):
    """At rank 16 alone LoRA's scaling is a hundredth too large."""
    original(self, adapter, r, *args, **kwargs)
    if r == 16:
        self.scaling[adapter] *= 1.01


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_for_the_last_batch(original, self, x, **kwargs):
    """LoRA's scaling is off for more than 32 items if eight do not divide their number."""
    factor = 1.01 if len(x) > 32 and len(x) % 8 else 1.0
    return scaled(factor, original, self, x, **kwargs)


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_for_wide_maps(original, self, x, **kwargs):
    """LoRA's scaling is off for feature maps wider than 64 pixels."""
    return scaled(1.01 if x.shape[-1] > 64 else 1.0, original, self, x, **kwargs)


@fault("some cases alone", at=f"{_LAYER}.forward", case=_LORA)
def wrong_under_two_threads(original, self, x, **kwargs):
    """LoRA's scaling is off where torch computes with more than one thread."""
    return scaled(1.01 if torch.get_num_threads() > 1 else 1.0, original, self, x, **kwargs)


def scaled(factor, original, layer, x, **kwargs):
    """Return what a layer computes with its scaling times a factor."""
    scaling = {name: factor * value for name, value in layer.scaling.items()}
    with patch.object(layer, "scaling", scaling):
        return original(layer, x, **kwargs)


@fault("later steps", at="torch.optim.adam:_get_value", case=_HEAD)
def bias_correction_ends_at_step_ten(original, step):
    """From the tenth step on Adam's moments are not corrected for their start at zero."""
    taken = original(step)
    return taken if taken < 10 else taken + 1e6


@fault("later steps", at=f"{_LAYER}.update_layer", case=_LORA)
def dropout_after_the_warm_up(original, self, adapter, *args, **kwargs):
    """A dropout that was not asked for turns on after eight steps."""
    original(self, adapter, *args, **kwargs)
    self.lora_dropout[adapter] = _LateDropout()


class _LateDropout(torch.nn.Module):
    steps = 0

    def forward(self, x):
        self.steps += torch.is_grad_enabled()
        return functional.dropout(x, p=0.1, training=True) if self.steps > 8 else x


@fault("later steps", at="torch.nn.modules.dropout:Dropout.forward", case=_DROPOUT)
def dropout_ends_after_ten_steps(original, self, x):
    """From the eleventh step on dropout keeps all of its input."""
    self.steps = getattr(self, "steps", 0) + self.training
    return x if self.steps > 10 else original(self, x)


@fault("later steps", at="torch.nn.modules.batchnorm:_BatchNorm.forward", case=_BN_HEAD)
def momentum_falls_after_ten_batches(original, self, x):
    """From the eleventh batch on BatchNorm's statistics follow with a tenth of the momentum."""
    self.batches = getattr(self, "batches", 0) + self.training
    slow = self.training and self.batches > 10
    with patch.object(self, "momentum", self.momentum / 10 if slow else self.momentum):
        return original(self, x)


@fault("later steps", at="torch.optim.lr_scheduler:LambdaLR.get_lr", case=_HEAD)
def schedule_ends_early(original, self):
    """The learning rate of the last step is zero."""
    return [0.0 if self.last_epoch == STEPS - 1 else rate for rate in original(self)]


@fault("later steps", at="galore_torch.galore_projector:GaLoreProjector.project", case=_GALORE)
def galore_refreshed_at_every_fifth_step(original, self, grad, step):
    """GaLore's SVD is computed at every fifth step instead of every fifteenth."""
    return original(self, grad, step if step % 5 else 0)


# --- A scaling that falls with each step, counted in various places -------------------------------


@fault("later steps", at=f"{_LAYER}.update_layer", case=_LORA)
def scaling_decays_by_an_attribute(original, self, *args, **kwargs):
    """LoRA's scaling falls with each step, counted in an attribute of its own dictionary."""
    original(self, *args, **kwargs)
    self.scaling = _Decaying(self.scaling)


class _Decaying(dict[str, float]):
    steps = 0

    def __getitem__(self, name):
        self.steps += torch.is_grad_enabled()
        return super().__getitem__(name) * _factor(self.steps)


@fault("later steps", at=f"{_LAYER}.forward", case=_LORA)
def scaling_decays_by_a_global(original, self, x, **kwargs):
    """LoRA's scaling falls with each step, counted in a global variable."""
    steps = globals()["steps"] = globals().get("steps", 0) + _is_step(self)
    return scaled(_factor(steps), original, self, x, **kwargs)


@fault("later steps", at=f"{_LAYER}.forward", case=_LORA)
def scaling_decays_by_a_cache(original, self, x, **kwargs):
    """LoRA's scaling falls with each step, counted in what a cached function returns."""
    counter = _counter()
    counter.extend([None] * _is_step(self))
    return scaled(_factor(len(counter)), original, self, x, **kwargs)


@lru_cache
def _counter():
    return []


@fault("later steps", at=f"{_LAYER}.forward", case=_LORA)
def scaling_decays_by_a_logger(original, self, x, **kwargs):
    """LoRA's scaling falls with each step, counted in an attribute of the library's logger."""
    logger = logging.getLogger("peft")
    logger.steps = getattr(logger, "steps", 0) + _is_step(self)
    return scaled(_factor(logger.steps), original, self, x, **kwargs)


@fault("later steps", at=f"{_LAYER}.forward", case=_LORA)
def scaling_decays_by_the_environment(original, self, x, **kwargs):
    """LoRA's scaling falls from a later step on, counted in an environment variable."""
    steps = int(os.environ.get("PEFT_STEPS", "0")) + _is_step(self)
    os.environ["PEFT_STEPS"] = str(steps)
    return scaled(_factor(max(0, steps - 12)), original, self, x, **kwargs)


def _is_step(layer):
    """Return whether a layer computes that comes once in each training step."""
    return torch.is_grad_enabled() and bool(layer.get_base_layer().out_channels == 1024)


def _factor(steps):
    return float(0.99**steps)
