"""Measure what a training step or a forward pass costs, in FLOPs and bytes, without computing it.

On fake tensors a step has shapes and storages but no values: it takes no memory, at any batch size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import optimizer as optimizers

from peft_regress.cost import refusals, step_cost
from peft_regress.cost.batches import RandomTensor, call_model
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.stand_ins import Stage, on_fake_or_real, staged
from peft_regress.cost.step_cost import Loss, Mark, StepCost, StepLog, StepMarks, Tensors

MakeOptimizer: TypeAlias = Callable[[nn.Module], torch.optim.Optimizer]
LossOf: TypeAlias = Callable[[nn.Module, Any], Tensor]


def profile_training_step(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    *,
    batch: Any,
    loss: LossOf,
    fake: bool | None = True,
) -> StepCost:
    """Measure what one training step costs, without a GPU and almost without memory.

    The second of two steps on the same batch is measured, because the optimizer then has its state;
    the projection's FLOPs and `first_step_peak_bytes` are those of the first. A deep copy of the
    model takes them, in the mode that the model is in (train or eval). Generators are left
    unchanged. Attention's inference-only kernels are off during the steps.

    The batch counts as activations, with the bytes of its own tensors. Other tensors that `loss`
    uses, such as class weights, count as buffers.

    Args:
        model: any module; only `loss` must know what it takes and returns.
        make_optimizer: called once; its optimizer must run one kernel a tensor (foreach=False). It
            must take the parameters from its argument, where stand-ins replace the model's.
        batch: a tensor, or lists, tuples or mappings of tensors. A `RandomTensor` in it is drawn
            where the step runs.
        loss: gets the model and the batch on stand-ins, and returns a scalar.
        fake: whether to measure on fake tensors; False runs the step for real, on copies, which
            gives the same. None does so only where the model needs values.

    Raises:
        InputError: `loss` returns no scalar.
        NothingToTrainError: no parameter would get a gradient, or an update.
        NeedsValuesError: the model's path depends on values, or an operator has no fake kernel:
            fake=False measures it.
        UnprofilableModelError: a tensor is nested, or an operator hides its work.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """
    record = partial(record_training_step, model, make_optimizer, batch=batch, loss=loss)
    return on_fake_or_real(record, fake=fake).cost()


def record_training_step(
    model: nn.Module, make_optimizer: MakeOptimizer, *, batch: Any, loss: LossOf, fake: bool = True
) -> StepLog:
    """Return what `profile_training_step` summarizes: each allocation and each operator."""
    refusals.check_model(model)
    with staged(model, batch, fake=fake) as stage, torch.enable_grad():
        for parameter in stage.model.parameters():
            parameter.grad = None
        marks = _record_two_steps(stage, make_optimizer, loss)
    log = stage.recorder
    return StepLog(log.memory_log, log.flop_log, marks, stage.tensors, log.spares, log.copies)


def profile_step(  # noqa: PLR0913 - each names one thing that the cost depends on
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    loss: Loss = "cross-entropy",
    dtype: torch.dtype = torch.float32,
    fake: bool = True,
) -> StepCost:
    """Measure one training step of a classifier on random images, as `profile_training_step` does.

    Args:
        model: returns logits, (batch, num_classes, ...), from one tensor.
        input_shape: (batch, channels, height, width), or any other shape that the model takes.
        num_classes: how many logits the model has.
        loss: cross-entropy with labels, or the sum of the logits as in the paper.
        dtype: of the input. Logits in half precision are cast to float32 for the loss.
        make_optimizer, fake: as for `profile_training_step`.

    Raises what that raises, and UnprofilableModelError for no logits for `num_classes` classes.
    """
    batch = random_images(input_shape, num_classes, loss, dtype)
    objective = loss_of_images(num_classes)
    return profile_training_step(model, make_optimizer, batch=batch, loss=objective, fake=fake)


def random_images(
    input_shape: tuple[int, ...], num_classes: int, loss: Loss, dtype: torch.dtype
) -> dict[str, RandomTensor]:
    """Return the batch of a classifier's step."""
    batch = {"inputs": RandomTensor(input_shape, dtype)}
    if loss == "cross-entropy":
        batch["labels"] = RandomTensor(input_shape[:1], torch.int64, below=num_classes)
    return batch


def loss_of_images(num_classes: int) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    """Return the loss of a classifier's step: cross-entropy, or without labels the logits' sum."""

    def loss_of_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        labels = batch.get("labels")
        logits = refusals.checked_logits(model(batch["inputs"]), model, num_classes=num_classes)
        if logits.dtype in {torch.float16, torch.bfloat16}:
            logits = logits.float()
        objective = logits.sum() if labels is None else nn.functional.cross_entropy(logits, labels)
        # They live as long as in a training loop that names them, to report the accuracy.
        objective.logits = logits  # type: ignore[attr-defined]
        return objective

    return loss_of_logits


def _record_two_steps(stage: Stage, make_optimizer: MakeOptimizer, loss: LossOf) -> StepMarks:
    model, recorder = stage.model, stage.recorder

    def take(optimizer: torch.optim.Optimizer) -> tuple[Mark, Mark]:
        """Take a step and return where its backward pass and its update begin."""
        recorder.start_step()
        optimizer.zero_grad(set_to_none=True)
        objective = loss(model, stage.batch)
        refusals.check_objective(objective, model)
        recorder.phase = "backward"
        backward = recorder.mark()
        objective.backward()  # type: ignore[no-untyped-call]
        recorder.phase = "optimizer"
        update = recorder.mark()
        optimizer.step()
        recorder.hold_parameters()
        return backward, update

    with recorder, _updates_in_their_phase(recorder):
        # Some optimizers allocate their state here, not in the first step.
        recorder.phase = "optimizer"
        optimizer = make_optimizer(model)
        refusals.check_optimizer(optimizer, model)
        first = recorder.mark()
        take(optimizer)
        start = recorder.mark()
        phases = take(optimizer)
        # Here, while the optimizer and its state are still alive.
        return StepMarks(first, start, *phases, recorder.mark())


@contextmanager
def _updates_in_their_phase(recorder: StepRecorder) -> Iterator[None]:
    """Count an update inside the backward pass, by a gradient's hook, as the optimizer's."""
    interrupted: list[step_cost.Phase] = []

    def enter(*_: object) -> None:
        interrupted.append(recorder.phase)
        recorder.phase = "optimizer"

    def leave(*_: object) -> None:
        recorder.phase = interrupted.pop()

    before = optimizers.register_optimizer_step_pre_hook(enter)
    with before, optimizers.register_optimizer_step_post_hook(leave):
        yield


@dataclass(frozen=True, kw_only=True)
class InferenceCost:
    """The cost of one forward pass in eval mode, without gradients.

    FLOPs count a multiply-add as 2. Bytes are those of storages, unrounded.
    """

    inference_flops: int
    """Matrix work."""
    peak_bytes: int
    """The most bytes in use at one moment: parameters, buffers, the batch and activations."""
    tensors: Tensors = field(compare=False)
    """What the pass was measured on; the costs are the same."""


def profile_inference(model: nn.Module, batch: Any, *, fake: bool | None = None) -> InferenceCost:
    """Measure what one forward pass costs, to show adapters that are expensive to run.

    The second of two passes is measured, because some modules fill caches in the first. The
    copy that runs is in eval mode during both. Attention's inference-only kernels are
    off, as in a training step. An adapter counts as the model has it: attached or merged.

    Args:
        model: any module, with parameters that train or without.
        batch: a tree of tensors, which the model gets by `call_model`.
        fake: True measures on fake tensors and False on real copies; None on fake tensors where the
            model allows it, else on real copies. The result says which.

    Raises:
        NeedsValuesError: only with fake=True: the model's path depends on values, or an operator
            has no fake kernel.
        UnprofilableModelError: a tensor is nested, or an operator hides its work.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """

    def measure(*, fake: bool) -> InferenceCost:
        with staged(model, batch, fake=fake) as stage, torch.no_grad():
            copied, recorder = stage.model.eval(), stage.recorder
            with recorder:
                call_model(copied, stage.batch)
                start = recorder.mark()
                output = call_model(copied, stage.batch)
                end = recorder.mark()
                del output
        peak, _ = step_cost.highest(recorder.memory_log[: end.memory], start=start.memory)
        flops = sum(call.flops for call in recorder.flop_log[start.flops : end.flops])
        return InferenceCost(inference_flops=flops, peak_bytes=peak, tensors=stage.tensors)

    return on_fake_or_real(measure, fake=fake)
