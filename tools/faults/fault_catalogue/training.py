"""What could go wrong with the data, the training loop, BatchNorm and the source model."""

import functools
from dataclasses import replace
from typing import Final

import torch
from torch.nn import functional

from fault_catalogue.fault import FINETUNE, Faults, before_each_step, fault

_LOAD: Final = "peft_regress.catalogue.tasks.digits:DigitsTask.load"
_MEAN, _DEVIATION = 0.1307, 0.3081
_BUILD: Final = "peft_regress.catalogue.architectures.torchvision_models:_build"
_MODES: Final = "peft_regress.catalogue.methods.method:Method.set_mode"
_SOURCE: Final = "peft_regress.catalogue.sources:source_model"


def of_each(kind, **stated):
    """Make a fault of what a function does to each layer of a kind, in the model returned."""

    def state(change):
        @fault(**stated)
        @functools.wraps(change)
        def replacement(original, *args, **kwargs):
            model = original(*args, **kwargs)
            for layer in filter(lambda one: isinstance(one, kind), model.modules()):
                change(layer)
            return model

        return replacement

    return state


class Data(Faults, area="data", at=_LOAD, case="head"):
    def labels_shuffled(original, self):
        """Each training image has the label of the image before it."""
        (images, labels), test = original(self)
        return (images, labels.roll(1)), test

    def training_images_normalised_twice(original, self):
        """The training images are normalised a second time."""
        (images, labels), test = original(self)
        return ((images - _MEAN) / _DEVIATION, labels), test

    def test_images_normalised_twice(original, self):
        """The test images are normalised a second time."""
        train, (images, labels) = original(self)
        return train, ((images - _MEAN) / _DEVIATION, labels)

    def test_images_trained_on(original, self):
        """The test images are those that are trained on."""
        _, test = original(self)
        return test, test

    @fault(at="peft_regress.measure.objective:Objective.scores")
    def test_split_cut(original, self, model, batches):
        """Only a tenth of the test images is evaluated."""
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        part = len(images) // 10
        return original(self, model, [(images[:part], labels[:part])])

    def training_image_duplicated(original, self):
        """One training image is there twice, in the place of another."""
        train, test = original(self)
        images, labels = (part.clone() for part in train)
        images[1], labels[1] = images[2], labels[2]
        return (images, labels), test

    def test_set_without_its_last_five_items(original, self):
        """The last five test images are missing."""
        train, (images, labels) = original(self)
        return train, (images[:-5], labels[:-5])

    @fault(at="peft_regress.measure.data:Data.training_batches")
    def order_of_images_ignores_the_seed(original, self, size, *, seed):
        """All seeds see the training images in the order of the first seed."""
        return original(self, size, seed=seed * 0)

    @fault(
        at="peft_regress.catalogue.tasks.digits:DigitsTask.prepare",
        case="unseen/head/shufflenet_v2_x0_5",
    )
    def new_head_not_drawn(_original, self, model, *, head, seed):
        """Unseen classes are trained from the source's own head instead of a new one."""


class TrainingLoop(Faults, area="training loop", at=FINETUNE, case="head"):
    @before_each_step
    def schedule_off_by_one(_step, _model, optimizer):
        """Each step but the first has the learning rate of the step before it."""
        for group in optimizer.param_groups:
            rate = group["lr"]
            group["lr"] = group.get("last_lr", rate)
            group["last_lr"] = rate

    @before_each_step
    def schedule_left_out(_step, _model, optimizer):
        """The learning rate stays at its peak."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]

    @fault(stops=True)
    def last_step_left_out(original, model, optimizer, batches, loop, **kwargs):
        """Training stops one step early."""
        shorter = replace(loop, steps=loop.steps - 1)
        return original(model, optimizer, batches, shorter, **kwargs)

    def trained_under_autocast(original, *args, **kwargs):
        """Training runs under autocast to bfloat16."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return original(*args, **kwargs)

    @fault(at="peft_regress.measure.objective:cross_entropy")
    def labels_smoothed(_original, logits, labels):
        """The loss has label smoothing of 0.1."""
        return functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)

    @fault(case="lora-r4")
    def head_not_trained(original, model, optimizer, *rest, **kwargs):
        """The head is trainable and has a gradient, but the optimizer does not have it."""
        head = {id(p) for name, p in model.named_parameters() if ".fc." in name}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in head]
        return original(model, optimizer, *rest, **kwargs)

    @before_each_step
    def gradients_clipped(_step, model, _optimizer):
        """Gradients are clipped to a norm of 1, which was not asked for."""
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


class BatchNorm(Faults, area="BatchNorm", case="bn_head"):
    @fault(at=_MODES, case="head")
    def batch_norm_left_in_train_mode(_original, _self, model):
        """The model trains in train mode, so that frozen running statistics move."""
        model.train()

    @fault(at=_MODES)
    def statistics_not_re_estimated(original, self, model):
        """The statistics should follow the new data, but stay those of the source."""
        original(replace(self, trains_batch_norm_statistics=False), model)

    @fault(
        at="peft_regress.catalogue.methods.selective:set_batch_norm_momentum",
        case="shift/bn_head/mobilenet_v3_small",
    )
    def momentum_not_set(_original, model, momentum):
        """The statistics follow with the architecture's own momentum, 0.01 instead of 0.1."""

    @of_each(torch.nn.BatchNorm2d, at="peft_regress.catalogue.methods.selective:Selective.adapt")
    def weights_of_batch_norm_train(layer):
        """Weight and bias of each BatchNorm train, but only the statistics should change."""
        layer.requires_grad_(requires_grad=True)

    @fault(at="torch.nn.modules.batchnorm:_BatchNorm.forward")
    def statistics_move_twice(original, self, x):
        """Each batch moves the running statistics twice."""
        original(self, x)
        return original(self, x)


class BaseModel(Faults, area="base model", at=_BUILD, case="head"):
    @of_each(torch.nn.BatchNorm2d, at=_SOURCE)
    def running_statistics_not_loaded(layer):
        """The source model comes without the running statistics of its BatchNorm layers."""
        layer.reset_running_stats()

    @fault(at=_SOURCE)
    def one_layer_not_loaded(original, architecture, state):
        """One convolution of the source model keeps its random weight."""
        drawn = architecture.build(num_classes=10, seed=0).state_dict()
        name = next(name for name in state if name.endswith("weight") and state[name].ndim == 4)
        return original(architecture, {**state, name: drawn[name]})

    @of_each(torch.nn.BatchNorm2d)
    def batch_norm_eps_changed(layer):
        """A release of torchvision builds BatchNorm with an eps of 1e-3 instead of 1e-5."""
        layer.eps = 1e-3

    def stride_changed(original, *args):
        """A release of torchvision builds the first convolution with a stride of 1 instead of 2."""
        model = original(*args)
        next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).stride = (1, 1)
        return model

    @of_each(torch.nn.Dropout, case="shift/lora-dropout-r4/mobilenet_v3_small")
    def dropout_probability_tripled(layer):
        """A release of torchvision builds dropout with a probability of 0.6 instead of 0.2."""
        layer.p *= 3

    @of_each(torch.nn.ReLU, case="full")
    def activations_not_in_place(layer):
        """A release of torchvision builds ReLU so that it keeps its input beside its output."""
        layer.inplace = False
