"""What could go wrong with the images and their labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from fault_catalogue.fault import Original
    from peft_regress.catalogue.tasks.digits import TaskData

_HEAD: Final = "shift/head/shufflenet_v2_x0_5"
_UNSEEN: Final = "unseen/head/shufflenet_v2_x0_5"
_LOAD: Final = "peft_regress.catalogue.tasks.digits:DigitsTask.load"
_EVALUATE: Final = "peft_regress.measure.objective:Objective.scores"
_MEAN, _DEVIATION = 0.1307, 0.3081


@fault("data", at=_LOAD, case=_HEAD)
def labels_shuffled(original: Original, self: Any) -> TaskData:
    """Each training image has the label of the image before it."""
    data: TaskData = original(self)
    return replace(data, train_labels=data.train_labels.roll(1))


@fault("data", at=_LOAD, case=_HEAD)
def training_images_normalised_twice(original: Original, self: Any) -> TaskData:
    """The training images are normalised a second time."""
    data: TaskData = original(self)
    return replace(data, train_images=(data.train_images - _MEAN) / _DEVIATION)


@fault("data", at=_LOAD, case=_HEAD)
def test_images_normalised_twice(original: Original, self: Any) -> TaskData:
    """The test images are normalised a second time."""
    data: TaskData = original(self)
    return replace(data, test_images=(data.test_images - _MEAN) / _DEVIATION)


@fault("data", at=_LOAD, case=_HEAD)
def test_images_trained_on(original: Original, self: Any) -> TaskData:
    """The test images are those that are trained on."""
    data: TaskData = original(self)
    return replace(data, train_images=data.test_images, train_labels=data.test_labels)


@fault("data", at=_EVALUATE, case=_HEAD)
def test_split_cut(original: Original, self: Any, model: Any, batches: Any) -> Any:
    """Only a tenth of the test images is evaluated."""
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    part = len(images) // 10
    return original(self, model, [(images[:part], labels[:part])])


@fault("data", at=_LOAD, case=_HEAD)
def training_image_duplicated(original: Original, self: Any) -> TaskData:
    """One training image is there twice, in the place of another."""
    data: TaskData = original(self)
    images, labels = data.train_images.clone(), data.train_labels.clone()
    images[1], labels[1] = images[2], labels[2]
    return replace(data, train_images=images, train_labels=labels)


@fault("data", at=_LOAD, case=_HEAD)
def test_set_without_its_last_five_items(original: Original, self: Any) -> TaskData:
    """The last five test images are missing."""
    data: TaskData = original(self)
    return replace(data, test_images=data.test_images[:-5], test_labels=data.test_labels[:-5])


@fault("data", at="peft_regress.measure.data:Data.training_batches", case=_HEAD)
def order_of_images_ignores_the_seed(original: Original, self: Any, size: int, *, seed: int) -> Any:
    """All seeds see the training images in the order of the first seed."""
    return original(self, size, seed=seed * 0)


@fault("data", at="peft_regress.catalogue.tasks.digits:DigitsTask.prepare", case=_UNSEEN)
def new_head_not_drawn(_original: Original, self: Any, model: Any, *, head: str, seed: int) -> None:
    """Unseen classes are trained from the source's own head instead of a new one."""
