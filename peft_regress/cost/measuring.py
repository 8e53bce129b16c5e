"""Record a model on stand-ins: what measuring a training step and a forward pass share."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from peft_regress.cost.batches import stand_in_batch
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import NeedsValuesError, cannot_be_fake
from peft_regress.cost.stand_ins import cloner, swapped_tensors
from peft_regress.gc_pause import paused_gc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from torch import nn

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

    Raises `NeedsValuesError` for what fake tensors cannot do.
    """
    # A closure may hold real weights as constants, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    recorder = StepRecorder(mode)
    convert = mode.from_tensor if mode is not None else cloner()
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    with (
        paused_gc(),
        _without_attention_fast_path(),
        _without_log_of_failures(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(mode=False),
        swapped_tensors(model, convert),
    ):
        try:
            with mode if mode is not None else nullcontext():
                stand_in, tensors = stand_in_batch(batch, convert, device)
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


def on_fake_or_real(measure: Callable[[bool], Measured]) -> Measured:
    """Return `measure(True)`, or `measure(False)` where the model needs values."""
    try:
        return measure(True)
    except NeedsValuesError:
        return measure(False)


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
