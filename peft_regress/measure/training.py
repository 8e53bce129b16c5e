"""Fine-tune a model briefly: the one training loop of the package.

Same seed, same machine, one thread: the losses are bit-identical, across processes too.
"""

import contextlib
import functools
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from peft_regress.cost.batches import map_batch
from peft_regress.errors import InputError, NonFiniteLossError


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The numbers of one fine-tuning run."""

    losses: tuple[float, ...]
    """In nats, one for each step, measured before that step's update."""
    step_seconds: tuple[float, ...]
    """Wall time of each step, from zeroing the gradients to the end of the update."""

    @property
    def median_step_seconds(self) -> float:
        """The median over the steps without the first, which allocates."""
        return statistics.median(self.step_seconds[1:] or self.step_seconds)


def seed_all(seed: int) -> None:
    """Seed torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that models draw from)
    random.seed(seed)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Give the global generators back as they were."""
    of_numpy, of_random = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_random)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on so many intra-op threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


single_thread = functools.partial(threads, 1)
"""Computes on one thread: more threads change the order of sums, hence the losses."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a model is trained: for how long, on what loss, at which rates, in which mode."""

    steps: int
    loss: Callable[[nn.Module, Any], Tensor]
    """Takes the model and a batch."""
    set_mode: Callable[[nn.Module], None]
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    """Stepped after each step, outside the timed part."""


@single_thread()
def finetune(*parts: Any, only: int | None = None, **options: Any) -> TrainingRun:
    """Train for some steps, to see what the method does to a real model.

    only: how many of the steps to take; None for all. The other arguments are those of
    `training_steps`.
    """
    taken = list(itertools.islice(training_steps(*parts, **options), only))
    losses, step_seconds = (tuple(one[part] for one in taken) for part in (0, 1))
    return TrainingRun(losses=losses, step_seconds=step_seconds)


def training_steps(  # noqa: PLR0913  (the parts of a training)
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    loop: Loop,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[tuple[float, float]]:
    """Take one training step for each request, and yield its loss (nats) and seconds.

    batches: without end; each goes to the device of the model. seed: of the batches, for an error.
    on_step: called after each step with its number, outside the timed part. The caller sets the
    number of threads.

    Raises `NonFiniteLossError` at the first loss that is NaN or infinite.
    """
    loop.set_mode(model)
    schedule = None if loop.schedule is None else loop.schedule(optimizer)
    device = device_of(model)
    upcoming = iter(batches)
    for step in range(loop.steps):
        batch = on_device(next(upcoming), device)
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loop.loss(model, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(step=step + 1, loss=value, seed=seed)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        seconds = time.perf_counter() - started
        if schedule is not None:
            schedule.step()
        if on_step is not None:
            on_step(step + 1)
        yield value, seconds


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU if it has none."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device; on a CPU the batch itself."""
    if device.type == "cpu":
        return batch
    if hasattr(batch, "to"):
        return batch.to(device)
    return map_batch(batch, lambda leaf: leaf.to(device))


_SHARE: Final = 1e-4
"""A thousand times what float32 rounds to: so a few steps meet the kinks (of a ReLU, a max-pool, or
the sign of a tiny gradient) that rounding could meet on another machine."""


@torch.no_grad()
def begin_alike(start: Path, model: nn.Module, batches: list[Any]) -> list[Any]:
    """Give a model the weights of a kept start; return its batches.

    Where the file is not there yet, the model and the batches are the start. It keeps torch's
    generator too. Raises `InputError` for a model with other tensors.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if not start.exists():
        torch.save((own, batches, torch.get_rng_state()), start)
        return batches
    weights, kept, generator = torch.load(start, weights_only=False)
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise InputError(f"{name} is only in one, or has another shape")
        own[name].copy_(weights[name])
    torch.set_rng_state(generator)
    return list(kept)


@torch.no_grad()
def move_nearby(model: nn.Module, share: float = _SHARE) -> None:
    """Make each weight of a model larger or smaller by a share of it, always in the same way."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            signs = 2 * torch.randint(2, parameter.shape, generator=generator) - 1
            parameter.mul_(1 + share * signs.to(parameter.device))
