"""What one training step costs, in FLOPs and bytes, without computing it.

Under fake tensors a step has shapes and storages but no values: it takes the same time whatever the
batch, and no memory.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
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
from peft_regress.cost.recorder import Ledger
from peft_regress.cost.refusals import cannot_be_fake, checked_logits, checked_objective
from peft_regress.cost.stand_ins import cloner, swapped_tensors
from peft_regress.cost.step_cost import Loss, Mark, StepCost, StepMarks, mark, step_cost
from peft_regress.gc_pause import paused_gc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peft_regress.cost.recorder import Phase

__all__ = ["profile_step"]


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

    The second of two steps is measured, so that the optimizer's state is there; the projection's
    FLOPs are those of the first. The model is used in the mode (train or eval) it is in and is left
    as it was. Stand-ins are in the places of its parameters when `make_optimizer` is called, which
    must take them from its argument. Attention's inference-only kernels are off meanwhile.

    Args:
        model: returns logits, (batch, num_classes, ...), from one tensor.
        make_optimizer: called once; its optimizer must run one kernel a tensor (foreach=False).
        input_shape: (batch, channels, height, width), or whatever the model takes.
        num_classes: how many logits the model has.
        loss: cross-entropy against labels, or the plain sum of the logits as the paper has it.
        dtype: of the input; the loss is of the logits in float32 where they are in half precision.
        fake: whether to measure on fake tensors; False runs the step for real, on copies and
            random data, to check that it makes no difference.

    Raises:
        InputError: no model could take such a step, or what makes the optimizer makes none.
        NothingToTrainError: no parameter would get a gradient, or an update.
        UnprofilableModelError: the model's path depends on values, an operator has no fake kernel,
            a parameter is on no device or of another dtype than its input, or the output is not
            logits for `num_classes` classes.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """
    check_step(input_shape, num_classes, loss, dtype)
    check_model(model, fake=fake)
    # Real weights may be met as constants that a closure holds, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    ledger = Ledger(mode)
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
                marks = _run(ledger, model, make_optimizer, inputs, labels, num_classes)
        except (RuntimeError, AssertionError) as error:
            refusal = cannot_be_fake(error, model, ledger.place) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            ledger.close()
    return step_cost(ledger, marks)


def _labels(inputs: Tensor, num_classes: int) -> Tensor:
    return torch.randint(num_classes, inputs.shape[:1], device=inputs.device)


def _run(  # noqa: PLR0913, PLR0917 - what profile_step has been given or made
    ledger: Ledger,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    inputs: Tensor,
    labels: Tensor | None,
    num_classes: int,
) -> StepMarks:
    ledger.follow(model)
    ledger.hold(inputs, "activation")
    if labels is not None:
        ledger.hold(labels, "activation")
    with ledger, _updates_in_their_phase(ledger):
        # Some optimizers allocate their state here rather than in the first step.
        ledger.phase = "optimizer"
        optimizer = make_optimizer(model)
        check_optimizer(optimizer, model)
        _step(ledger, model, optimizer, inputs, labels, num_classes)
        start = mark(ledger)
        phases = _step(ledger, model, optimizer, inputs, labels, num_classes)
        # Here, while the optimizer and its state are still alive.
        return StepMarks(start, *phases, mark(ledger))


def _step(  # noqa: PLR0913, PLR0917
    ledger: Ledger,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor | None,
    num_classes: int,
) -> tuple[Mark, Mark]:
    """Take one step and return where its backward pass and its update begin."""
    ledger.start_step()
    optimizer.zero_grad(set_to_none=True)
    logits = checked_logits(model(inputs), model, num_classes=num_classes, labels=labels)
    if logits.dtype in {torch.float16, torch.bfloat16}:
        logits = logits.float()
    objective = logits.sum() if labels is None else nn.functional.cross_entropy(logits, labels)
    checked_objective(objective, model)
    ledger.phase = "backward"
    backward = mark(ledger)
    objective.backward()  # type: ignore[no-untyped-call]
    ledger.phase = "optimizer"
    update = mark(ledger)
    optimizer.step()
    ledger.hold_parameters()
    return backward, update


@contextmanager
def _updates_in_their_phase(ledger: Ledger) -> Iterator[None]:
    """Count as the optimizer's what steps inside the backward pass, from a gradient's hook."""
    interrupted: list[Phase] = []

    def enter(*_: object) -> None:
        interrupted.append(ledger.phase)
        ledger.phase = "optimizer"

    def leave(*_: object) -> None:
        ledger.phase = interrupted.pop()

    handles = [register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_attention_fast_path() -> Iterator[None]:
    """Keep frozen attention layers on the operators that fake tensors and formulas know."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


@contextmanager
def _without_log_of_failures() -> Iterator[None]:
    """Keep fake tensors from logging a traceback of an error that they raise as well."""
    log = logging.getLogger(fake_tensor.__name__)
    was_disabled = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was_disabled
