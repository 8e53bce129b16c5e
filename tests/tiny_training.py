"""The training loop of the package on the images of a task, in the built-in cases' setting."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from peft_regress.catalogue.built_in import cosine_to_zero, set_modes
from peft_regress.measure.data import Data, TensorItems
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import Loop, TrainingRun, single_thread
from peft_regress.measure.training import finetune as train_by_loop

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.catalogue.tasks import TaskData


def data_of(images: TaskData) -> Data:
    """Return the images of a task as the loop takes them."""
    return Data(
        train=TensorItems((images.train_images, images.train_labels)),
        test=TensorItems((images.test_images, images.test_labels)),
    )


def finetune(
    model: nn.Module,
    optimizer: Optimizer,
    images: TaskData,
    *,
    steps: int = 22,
    batch_size: int = 32,
    seed: int,
    first: int,
    batch_norm_statistics: bool = False,
) -> TrainingRun:
    """Train as a built-in case does."""
    loop = Loop(
        steps=steps,
        loss=Objective().loss,
        set_mode=functools.partial(set_modes, batch_norm_statistics=batch_norm_statistics),
        schedule=cosine_to_zero(steps),
    )
    batches = data_of(images).training_batches(batch_size, seed=seed)
    return train_by_loop(model, optimizer, batches, loop, seed=seed, first=first)


@single_thread()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy and loss, as a built-in case does."""
    batches = list(zip(images.split(200), labels.split(200), strict=True))
    scores = Objective().scores(model, batches)
    return scores["accuracy"], scores["loss"]
