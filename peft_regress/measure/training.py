"""Fine-tune a model briefly and evaluate it: the one training loop of the package.

Same seed, same machine, one thread: the losses are bit-identical, across processes too.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from peft_regress.errors import InputError, NonFiniteLossError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.optim import Optimizer

    from peft_regress.cases import Json
    from peft_regress.catalogue.tasks.protocol import TaskData

STEPS: Final = 22
BATCH_SIZE: Final = 32
_EVALUATION_BATCH: Final = 200


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The numbers of one fine-tuning run."""

    losses: tuple[float, ...]
    """In nats, one for each step, measured before that step's update."""
    step_seconds: tuple[float, ...]
    """Wall time of each step, from zeroing the gradients to the end of the update."""
    first: int
    """How many losses serve as a fingerprint."""

    @property
    def first_losses(self) -> tuple[float, ...]:
        """The losses that serve as a fingerprint; later ones amplify rounding."""
        return self.losses[: self.first]

    @property
    def median_step_seconds(self) -> float:
        """The median over the steps, without the first, which allocates memory."""
        return statistics.median(self.step_seconds[1:] or self.step_seconds)


def loop_definition(*, steps: int = STEPS, batch_size: int = BATCH_SIZE) -> dict[str, Json]:
    """Return all settings of the loop, for a case's definition."""
    return {
        "steps": steps,
        "batch_size": batch_size,
        "schedule": "cosine to zero",
        "loss": "cross-entropy",
        "mode": "eval, BatchNorm in train mode where its statistics are trained",
    }


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one intra-op thread: more threads change the order of sums, hence the losses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_modes(model: nn.Module, *, batch_norm_statistics: bool) -> None:
    """Put the model in eval mode, and its BatchNorm layers in train mode on request."""
    model.eval()
    if batch_norm_statistics:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss in nats, computed in float32.

    logits: (batch, classes), labels: (batch,)
    """
    return functional.cross_entropy(logits.float(), labels)


@single_thread()
def finetune(  # noqa: PLR0913  (each is one setting of the loop)
    model: nn.Module,
    optimizer: Optimizer,
    data: TaskData,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int,
    first: int,
    batch_norm_statistics: bool = False,
) -> TrainingRun:
    """Train for some steps, to see what the method does to a real model.

    first: the number of losses kept as a fingerprint. The other arguments are those of
    `training_steps`.
    """
    taken = list(
        training_steps(
            model,
            optimizer,
            data,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            batch_norm_statistics=batch_norm_statistics,
        )
    )
    return TrainingRun(
        losses=tuple(loss for loss, _ in taken),
        step_seconds=tuple(seconds for _, seconds in taken),
        first=first,
    )


def training_steps(  # noqa: PLR0913  (each is one setting of the loop)
    model: nn.Module,
    optimizer: Optimizer,
    data: TaskData,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int,
    batch_norm_statistics: bool = False,
) -> Iterator[tuple[float, float]]:
    """Take one training step for each request, and yield its loss (nats) and seconds.

    seed: fixes the order of the images. The optimizer's learning rates are the peaks of a cosine
    that ends at zero. The caller sets the number of threads.

    Raises `NonFiniteLossError` at the first loss that is NaN or infinite.
    """
    set_modes(model, batch_norm_statistics=batch_norm_statistics)
    peaks = [group["lr"] for group in optimizer.param_groups]
    batches = _batches(len(data.train_images), batch_size=batch_size, seed=seed)
    for step in range(steps):
        chosen = next(batches)
        images = data.train_images[chosen]  # (batch_size, 3, height, width)
        labels = data.train_labels[chosen]  # (batch_size,)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(model(images), labels)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(step=step + 1, loss=value, seed=seed)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        yield value, time.perf_counter() - started


@single_thread()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the accuracy, a fraction, and the mean cross-entropy in nats. The mode becomes eval.

    images: (count, 3, height, width), labels: (count,)
    """
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in torch.split(images, _EVALUATION_BATCH)])
        loss = cross_entropy(logits, labels).item()  # logits: (count, classes)
        correct = (logits.argmax(dim=1) == labels).sum().item()
    return correct / len(labels), loss


def _batches(count: int, *, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield indices of full batches without end; each pass over the images has a new order."""
    if count < batch_size:
        msg = f"a batch of {batch_size} needs as many training images, the task has {count}"
        raise InputError(msg)
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order[: count - count % batch_size], batch_size)
