"""Measure what one training step costs, in FLOPs and bytes, without computing it.

On fake tensors a step has shapes and storages but no values: it takes no memory, and the same time
for every batch size.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from peft_regress.cost.checks import check_model, check_optimizer, check_step
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import cannot_be_fake, check_objective, checked_logits
from peft_regress.cost.stand_ins import cloner, swapped_tensors
from peft_regress.cost.step_cost import Loss, Mark, StepCost, StepMarks, mark, step_cost
from peft_regress.gc_pause import paused_gc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peft_regress.cost.recorder import Phase


def profile_step(  # noqa: PLR0913 - each names one thing that the cost depends on
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    loss: Loss = "cross-entropy",
    dtype: torch.dtype = torch.float32,
    fake: bool = True,
) -> StepCost:
    """Measure what one training step costs, without a GPU, without data and almost without memory.

    Of two steps the second is measured, since the optimizer then has its state; the projection's
    FLOPs are those of the first. The model keeps its mode (train or eval) and is left unchanged.
    `make_optimizer` must take the parameters from its argument, where stand-ins replace the
    model's. Attention's inference-only kernels are off meanwhile.

    Args:
        model: returns logits, (batch, num_classes, ...), from one tensor.
        make_optimizer: called once; its optimizer must run one kernel a tensor (foreach=False).
        input_shape: (batch, channels, height, width), or any other shape that the model takes.
        num_classes: how many logits the model has.
        loss: cross-entropy with labels, or the sum of the logits as in the paper.
        dtype: of the input. Logits in half precision are cast to float32 for the loss.
        fake: whether to measure on fake tensors; False runs the step for real, on copies and
            random data, which must give the same.

    Raises:
        InputError: no model could take such a step, or `make_optimizer` makes no optimizer.
        NothingToTrainError: no parameter would get a gradient, or an update.
        UnprofilableModelError: the model's path depends on values, an operator has no fake kernel,
            a parameter has no device or another dtype than its input, or the output is not
            logits for `num_classes` classes.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """
    check_step(input_shape, num_classes, loss, dtype)
    check_model(model, fake=fake)
    # A closure may hold real weights as constants, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    recorder = StepRecorder(mode)
    device = next(model.parameters()).device
    with (
        paused_gc(),
        _without_attention_fast_path(),
        _without_log_of_failures(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(mode=False),
        swapped_tensors(model, mode.from_tensor if mode is not None else cloner()),
        torch.enable_grad(),
    ):
        for parameter in model.parameters():
            parameter.grad = None
        try:
            with mode if mode is not None else nullcontext():
                inputs = torch.randn(input_shape, dtype=dtype, device=device)
                labels = _labels(inputs, num_classes) if loss == "cross-entropy" else None
                step = _Step(recorder, model, inputs, labels, num_classes)
                marks = _record_two_steps(step, make_optimizer)
        except (RuntimeError, AssertionError) as error:
            refusal = cannot_be_fake(error, model, recorder.location) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            recorder.close()
    return step_cost(recorder, marks)


def _labels(inputs: Tensor, num_classes: int) -> Tensor:
    return torch.randint(num_classes, inputs.shape[:1], device=inputs.device)


@dataclass(frozen=True)
class _Step:
    """A training step that can be taken again and again."""

    recorder: StepRecorder
    model: nn.Module
    inputs: Tensor
    labels: Tensor | None
    num_classes: int

    def take(self, optimizer: torch.optim.Optimizer) -> tuple[Mark, Mark]:
        """Take the step and return where its backward pass and its update begin."""
        recorder, model, labels = self.recorder, self.model, self.labels
        recorder.start_step()
        optimizer.zero_grad(set_to_none=True)
        logits = checked_logits(
            model(self.inputs), model, num_classes=self.num_classes, labels=labels
        )
        if logits.dtype in {torch.float16, torch.bfloat16}:
            logits = logits.float()
        objective = logits.sum() if labels is None else nn.functional.cross_entropy(logits, labels)
        check_objective(objective, model)
        recorder.phase = "backward"
        backward = mark(recorder)
        objective.backward()  # type: ignore[no-untyped-call]
        recorder.phase = "optimizer"
        update = mark(recorder)
        optimizer.step()
        recorder.hold_parameters()
        return backward, update


def _record_two_steps(
    step: _Step, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
) -> StepMarks:
    recorder, model = step.recorder, step.model
    recorder.follow(model)
    recorder.hold(step.inputs, "activation")
    if step.labels is not None:
        recorder.hold(step.labels, "activation")
    with recorder, _updates_in_their_phase(recorder):
        # Some optimizers allocate their state here, not in the first step.
        recorder.phase = "optimizer"
        optimizer = make_optimizer(model)
        check_optimizer(optimizer, model)
        step.take(optimizer)
        start = mark(recorder)
        phases = step.take(optimizer)
        # Here, while the optimizer and its state are still alive.
        return StepMarks(start, *phases, mark(recorder))


@contextmanager
def _updates_in_their_phase(recorder: StepRecorder) -> Iterator[None]:
    """Count an update inside the backward pass, by a gradient's hook, as the optimizer's."""
    interrupted: list[Phase] = []

    def enter(*_: object) -> None:
        interrupted.append(recorder.phase)
        recorder.phase = "optimizer"

    def leave(*_: object) -> None:
        recorder.phase = interrupted.pop()

    handles = [register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
