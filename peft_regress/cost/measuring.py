"""Record a model on stand-ins: what measuring a training step and a forward pass share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from peft_regress.cost.batches import RandomTensor, leaves_of, stand_in_batch
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import NeedsValuesError, cannot_be_fake
from peft_regress.cost.stand_ins import cloner, swapped_tensors
from peft_regress.errors import InputError
from peft_regress.gc_pause import paused_gc

if TYPE_CHECKING:
    from peft_regress.cost.step_cost import Tensors

    Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Stage:
    """A recorder that follows a model on stand-ins, and the batch on stand-ins."""

    recorder: StepRecorder
    batch: Any


@contextmanager
def staged(model: nn.Module, batch: Any, *, fake: bool) -> Iterator[Stage]:
    """Put stand-ins under a model and a batch, to be recorded inside; restore the model after.

    Raises `InputError` for a batch that cannot be measured, `NeedsValuesError` for what fake
    tensors cannot do.
    """
    if not fake and any(isinstance(leaf, FakeTensor) for leaf in leaves_of(batch)):
        raise InputError(
            "the batch has a fake tensor, which cannot take a real step: measure with fake=True"
        )
    # A closure may hold real weights as constants, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    recorder = StepRecorder(mode)
    convert = mode.from_tensor if mode is not None else cloner()
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")

    def draw(random: RandomTensor) -> Tensor:
        with mode if mode is not None else nullcontext():
            return random.draw(device)

    with (
        paused_gc(),
        _without_attention_fast_path(),
        _without_log_of_failures(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(mode=False),
        swapped_tensors(model, convert),
        mock.patch.object(torch, "get_rng_state", recorder.generator_state),
    ):
        try:
            stand_in, tensors = stand_in_batch(batch, convert, draw)
            with mode if mode is not None else nullcontext():
                recorder.follow(model)
                for tensor in tensors:
                    recorder.hold(tensor, "activation")
                yield Stage(recorder, stand_in)
        except (RuntimeError, AssertionError) as error:
            refusal = cannot_be_fake(error, model, recorder.location) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            recorder.close()


def on_fake_or_real(measure: Callable[..., Measured]) -> Measured:
    """Return `measure(fake=True)`, or `measure(fake=False)` where the model needs values."""
    try:
        return measure(fake=True)
    except NeedsValuesError:
        return measure(fake=False)


def tensors_used(*, fake: bool) -> Tensors:
    """Name what a measurement ran on."""
    return "fake tensors" if fake else "real tensors"


@contextmanager
def _without_attention_fast_path() -> Iterator[None]:
    """Make frozen attention layers use operators that fake tensors and formulas know."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


@contextmanager
def _without_log_of_failures() -> Iterator[None]:
    """Keep fake tensors from logging the traceback of an error that they raise anyway."""
    log = logging.getLogger(fake_tensor.__name__)
    was_disabled = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was_disabled
