"""Errors that only later steps, or some inputs, ranks or machines show."""

import itertools
import logging
import os
import statistics
from functools import lru_cache
from typing import Final
from unittest.mock import patch

import torch
from torch.nn import functional

from fault_catalogue.fault import FINETUNE, Faults, before_each_step, fault
from peft_regress.catalogue.built_in import STEPS

_DROPOUT: Final = "shift/lora-dropout-r4/mobilenet_v3_small"
_LAYER: Final = "peft.tuners.lora.layer:_ConvNd"
_BATCHES: Final = "peft_regress.measure.data:Data.training_batches"
_BATCH_NORM: Final = "torch.nn.modules.batchnorm:_BatchNorm.forward"
_DROPOUT_LAYER: Final = "torch.nn.modules.dropout:Dropout.forward"
_PROJECT: Final = "galore_torch.galore_projector:GaLoreProjector.project"


def scaled(factor, original, layer, x, **kwargs):
    """Return what a layer computes with its scaling times a factor."""
    scaling = {name: factor * value for name, value in layer.scaling.items()}
    with patch.object(layer, "scaling", scaling):
        return original(layer, x, **kwargs)


def off_where(where, is_off):
    """Return a fault of LoRA's scaling for some inputs."""

    def replacement(original, self, x, **kwargs):
        return scaled(1.01 if is_off(x) else 1.0, original, self, x, **kwargs)

    replacement.__doc__ = f"LoRA's scaling is off {where}."
    return replacement


def decaying(store, get_counts, free=0):
    """Return a fault of LoRA's scaling that falls with each step, counted in some mapping."""

    @fault(at=f"{_LAYER}.forward")
    def replacement(original, self, x, **kwargs):
        # This layer computes once in each training step.
        is_step = torch.is_grad_enabled() and self.get_base_layer().out_channels == 1024
        steps = int(get_counts().get("PEFT_STEPS", "0")) + is_step
        get_counts()["PEFT_STEPS"] = str(steps)
        return scaled(0.99 ** max(0, steps - free), original, self, x, **kwargs)

    replacement.__doc__ = f"LoRA's scaling falls with each step, counted in {store}."
    return replacement


class SomeCases(Faults, area="some cases alone", at=f"{_LAYER}.forward", case="lora-r4"):
    @fault(at=f"{_LAYER}.update_layer", case="lora-r16")
    def scaled_wrongly_at_rank_16(original, self, adapter, r, *args, **kwargs):
        """At rank 16 alone LoRA's scaling is a hundredth too large."""
        original(self, adapter, r, *args, **kwargs)
        if r == 16:
            self.scaling[adapter] *= 1.01

    wrong_for_the_last_batch = off_where(
        "for more than 32 items if eight do not divide their number",
        lambda x: len(x) > 32 and len(x) % 8,
    )
    wrong_for_wide_maps = off_where("for maps wider than 64 pixels", lambda x: x.shape[-1] > 64)
    wrong_under_two_threads = off_where("on several threads", lambda _: torch.get_num_threads() > 1)


class LaterSteps(Faults, area="later steps", case="lora-r4"):
    @fault(at="torch.optim.adam:_get_value", case="head")
    def bias_correction_ends_at_step_ten(original, step):
        """From the tenth step on Adam's moments are not corrected for their start at zero."""
        taken = original(step)
        return taken if taken < 10 else taken + 1e6

    @fault(at=f"{_LAYER}.update_layer", also=("vera",))
    def dropout_after_the_warm_up(original, self, adapter, *args, **kwargs):
        """A dropout that was not asked for turns on after eight steps."""
        original(self, adapter, *args, **kwargs)
        dropouts = getattr(self, "lora_dropout", None) or self.vera_dropout
        dropouts[adapter] = LateDropout(after=8)

    @fault(at=_DROPOUT_LAYER, case=_DROPOUT)
    def dropout_ends_after_ten_steps(original, self, x):
        """From the eleventh step on dropout keeps all of its input."""
        self.steps = getattr(self, "steps", 0) + self.training
        return x if self.steps > 10 else original(self, x)

    @fault(at=_BATCH_NORM, case="bn_head")
    def momentum_falls_after_ten_batches(original, self, x):
        """From the eleventh batch on BatchNorm's statistics follow with a tenth of the momentum."""
        self.batches = getattr(self, "batches", 0) + self.training
        slow = self.training and self.batches > 10
        with patch.object(self, "momentum", self.momentum / 10 if slow else self.momentum):
            return original(self, x)

    @fault(at="torch.optim.lr_scheduler:LambdaLR.get_lr", case="head")
    def schedule_ends_early(original, self):
        """The learning rate of the last step is zero."""
        return [0.0 if self.last_epoch == STEPS - 1 else rate for rate in original(self)]

    @fault(at=_PROJECT, case="galore-r4")
    def galore_refreshed_at_every_fifth_step(original, self, grad, step):
        """GaLore's SVD is computed at every fifth step instead of every fifteenth."""
        return original(self, grad, step if step % 5 else 0)

    @fault(at=_PROJECT, case="galore-r4")
    def galore_refreshed_one_step_late(original, self, grad, step):
        """GaLore's SVD is computed one step after the fifteenth."""
        return original(self, grad, max(step - 1, 1))

    @fault(at="peft.tuners.lora.dora:_DoraConvNdLayer.get_weight_norm", case="dora-r4")
    def dora_norm_kept_for_six_steps(original, self, *args, **kwargs):
        """For six steps DoRA's norm is that of the sixth, which a cache keeps in training."""
        norm = original(self, *args, **kwargs)
        if norm.requires_grad or not torch.is_grad_enabled():
            return norm
        self.steps = getattr(self, "steps", 0) + 1
        self.kept = self.kept if 6 < self.steps <= 12 else norm
        return self.kept

    @fault(at=_DROPOUT_LAYER, case=_DROPOUT)
    def dropout_grows_for_six_steps(original, self, x):
        """For six steps from the ninth on dropout is half as probable again."""
        self.steps = getattr(self, "steps", 0) + self.training
        with patch.object(self, "p", self.p * (1.5 if 8 < self.steps <= 14 else 1)):
            return original(self, x)

    @fault(at=_BATCH_NORM, case="bn_head")
    def statistics_stop_after_one_pass(original, self, x):
        """From the second pass over the images on BatchNorm's statistics no longer move."""
        self.batches = getattr(self, "batches", 0) + self.training
        with patch.object(self, "momentum", 0.0 if self.batches > 18 else self.momentum):
            return original(self, x)

    @fault(at=_BATCHES, case="head")
    def second_pass_has_the_order_of_the_first(original, self, size, **kwargs):
        """Each pass over the images has the same order, as of a sampler that knows no epoch."""
        while True:
            yield from itertools.islice(original(self, size, **kwargs), self.train.count // size)

    @fault(at=_BATCHES, case="full")
    def image_twice_in_the_twelfth_batch(original, *args, **kwargs):
        """The twelfth batch has one image twice, in the place of another."""
        for number, (images, labels) in enumerate(original(*args, **kwargs), start=1):
            if number == 12:
                images[1], labels[1] = images[0], labels[0]
            yield images, labels

    @fault(at="peft_regress.measure.objective:Objective.scores", case="head")
    def scores_averaged_over_batches(original, self, model, batches):
        """The test scores are means over batches, though the last batch is smaller."""
        each = [original(self, model, [batch]) for batch in batches]
        return {name: statistics.fmean(one[name] for one in each) for name in each[0]}

    @fault(at=FINETUNE, case="head")
    @before_each_step
    def rate_a_thousandth_higher_from_step_ten(step, _model, optimizer):
        """From the tenth step on the optimizer takes 1.001 of the learning rate."""
        for group in optimizer.param_groups:
            group["lr"] *= 1.001 if step >= 10 else 1.0

    @fault(at=FINETUNE, also=("ia3", "prefix", "fourierft"))
    @before_each_step
    def gradient_lost_at_step_nine(step, model, _optimizer):
        """One tensor has no gradient at the ninth step."""
        if step == 9:
            next(p for p in model.parameters() if p.requires_grad).grad = None

    @fault(at=FINETUNE)
    @before_each_step
    def moments_start_again_at_step_eleven(step, _model, optimizer):
        """Adam's moments start at zero again at the eleventh step."""
        if step == 11:
            optimizer.state.clear()

    @fault(at=f"{_LAYER}.forward")
    def float32_kernel_wrong_at_step_nine(original, self, x, **kwargs):
        """In float32 alone LoRA's scaling is a hundredth too large, at the ninth step."""
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        is_wrong = self.steps == 9 and torch.is_grad_enabled() and x.dtype == torch.float32
        return scaled(1.01 if is_wrong else 1.0, original, self, x, **kwargs)

    # A scaling that falls with each step, counted in various places.
    @fault(at=f"{_LAYER}.update_layer")
    def scaling_decays_by_an_attribute(original, self, *args, **kwargs):
        """LoRA's scaling falls with each step, counted in an attribute of its own dictionary."""
        original(self, *args, **kwargs)
        self.scaling = _Decaying(self.scaling)

    scaling_decays_by_a_global = decaying("a global variable", globals)
    scaling_decays_by_a_cache = decaying("what a cached function returns", lru_cache(dict))
    scaling_decays_by_a_logger = decaying(
        "an attribute of the library's logger", lambda: vars(logging.getLogger("peft"))
    )
    scaling_decays_by_the_environment = decaying(
        "an environment variable, from the 13th step on", lambda: os.environ, free=12
    )


class LateDropout(torch.nn.Module):
    """A dropout of a tenth in every mode, after some steps."""

    def __init__(self, *, after):
        super().__init__()
        self.steps = -after

    def forward(self, x):  # noqa: D102
        self.steps += torch.is_grad_enabled()
        return functional.dropout(x, p=0.1, training=True) if self.steps > 0 else x


class _Decaying(dict[str, float]):
    steps = 0

    def __getitem__(self, name):
        self.steps += torch.is_grad_enabled()
        return super().__getitem__(name) * 0.99**self.steps
