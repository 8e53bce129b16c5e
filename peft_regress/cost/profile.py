"""What one training step costs, in FLOPs and bytes, without computing it.

Under fake tensors a step has shapes and storages but no values: it takes the same time whatever the
batch, and no memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from peft_regress.collector import quiet_collector
from peft_regress.cost.ledger import FlopEvent, Ledger, Phase
from peft_regress.cost.memory import ByteSite, summarize_memory
from peft_regress.cost.refusals import (
    NothingToTrainError,
    UnprofilableModelError,
    cannot_be_fake,
    check_model,
    check_optimizer,
    check_step,
    checked_logits,
    checked_objective,
)
from peft_regress.cost.swap import cloner, swapped_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "FlopSite",
    "Loss",
    "NothingToTrainError",
    "StepCost",
    "UnprofilableModelError",
    "profile_step",
]

Loss = Literal["cross-entropy", "sum"]


class FlopSite(NamedTuple):
    """FLOPs of one operator in one module and phase of the step; module '' is outside any."""

    phase: Phase
    module: str
    operator: str
    flops: int
    paper_flops: int
    """As torch's FlopCounterMode has it."""


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """The cost of one training step, from `zero_grad` to the end of `optimizer.step()`.

    FLOPs count a multiply-add as 2. Bytes are those of storages, unrounded.
    """

    forward_flops: int
    """Matrix work of the forward pass and the loss."""
    backward_flops: int
    """Matrix work of the backward pass."""
    optimizer_flops: int
    """Matrix work of `step()`, and one FLOP for each element that a pointwise operator writes."""
    projection_flops: int
    """GaLore's SVDs, for one refresh; 0 where `step()` has none."""
    paper_forward_flops: int
    """As torch's FlopCounterMode reports it (2.6 to 2.13)."""
    paper_backward_flops: int
    """As torch's FlopCounterMode reports it: too large for grouped convolutions."""
    peak_bytes: int
    """The most that is alive at one time."""
    peak_param_bytes: int
    """Parameters, frozen ones too."""
    peak_buffer_bytes: int
    """Buffers, and tensors that modules keep as plain attributes."""
    peak_grad_bytes: int
    """Gradients of parameters, once accumulated."""
    peak_activation_bytes: int
    """What the forward pass creates, the input and the labels included."""
    peak_temp_bytes: int
    """What the backward pass creates, a gradient until it is accumulated included."""
    peak_optimizer_bytes: int
    """All that lives in `step()`: the state and what the step computes on the way."""
    optimizer_state_bytes: int
    """What is left of that after the step."""
    aten_ops: int
    """Operators of the aten namespace dispatched in the step."""
    flops_by_site: tuple[FlopSite, ...]
    """The FLOP totals, split; the phase 'projection' holds GaLore's SVDs. Sorted."""
    bytes_at_peak: tuple[ByteSite, ...]
    """Who holds `peak_bytes` at the first moment of the peak; sums to it. Sorted."""
    peak_phase: Phase
    """In which phase of the step that moment lies."""
    bytes_at_highs: tuple[ByteSite, ...]
    """Who holds each category at the first moment of its own high; sums to that. Sorted."""
    state_bytes: tuple[ByteSite, ...]
    """Whose `optimizer_state_bytes` they are; sums to them. Sorted."""

    @property
    def category_sum_bytes(self) -> int:
        """Sum the six categories' own highs, the reference paper's total: no moment's memory."""
        return (
            self.peak_param_bytes
            + self.peak_buffer_bytes
            + self.peak_grad_bytes
            + self.peak_activation_bytes
            + self.peak_temp_bytes
            + self.peak_optimizer_bytes
        )


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
    check_step(input_shape, num_classes, dtype)
    check_model(model)
    # Real weights may be met as constants that a closure holds, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    ledger = Ledger()
    device = next(model.parameters()).device
    with (
        quiet_collector(),
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
        except RuntimeError as error:
            refusal = cannot_be_fake(error, model, ledger.place) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            ledger.close()
    return _step_cost(ledger, marks)


class _Mark(NamedTuple):
    """A place in the log."""

    memory: int
    flops: int
    aten_ops: int


class _StepMarks(NamedTuple):
    """Where the measured step and its phases begin in the log, and where it ends."""

    start: _Mark
    backward: _Mark
    optimizer: _Mark
    end: _Mark


def _mark(ledger: Ledger) -> _Mark:
    return _Mark(len(ledger.memory_events), len(ledger.flop_events), ledger.aten_ops)


def _labels(inputs: Tensor, num_classes: int) -> Tensor:
    return torch.randint(num_classes, inputs.shape[:1], device=inputs.device)


def _run(  # noqa: PLR0913, PLR0917 - what profile_step has been given or made
    ledger: Ledger,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    inputs: Tensor,
    labels: Tensor | None,
    num_classes: int,
) -> _StepMarks:
    ledger.follow(model)
    ledger.hold(inputs, "activation")
    if labels is not None:
        ledger.hold(labels, "activation")
    with ledger:
        # Some optimizers allocate their state here rather than in the first step.
        ledger.phase = "optimizer"
        optimizer = make_optimizer(model)
        check_optimizer(optimizer, model)
        _step(ledger, model, optimizer, inputs, labels, num_classes)
        start = _mark(ledger)
        phases = _step(ledger, model, optimizer, inputs, labels, num_classes)
        # Here, while the optimizer and its state are still alive.
        return _StepMarks(start, *phases, _mark(ledger))


def _step(  # noqa: PLR0913, PLR0917
    ledger: Ledger,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor | None,
    num_classes: int,
) -> tuple[_Mark, _Mark]:
    """Take one step and return where its backward pass and its update begin."""
    ledger.start_step()
    optimizer.zero_grad(set_to_none=True)
    logits = checked_logits(model(inputs), model, num_classes=num_classes, labels=labels)
    if logits.dtype in {torch.float16, torch.bfloat16}:
        logits = logits.float()
    objective = logits.sum() if labels is None else nn.functional.cross_entropy(logits, labels)
    checked_objective(objective, model)
    ledger.phase = "backward"
    backward = _mark(ledger)
    objective.backward()  # type: ignore[no-untyped-call]
    ledger.phase = "optimizer"
    update = _mark(ledger)
    optimizer.step()
    ledger.hold_parameters()
    return backward, update


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


def _step_cost(ledger: Ledger, marks: _StepMarks) -> StepCost:
    start, end = marks.start, marks.end
    memory = summarize_memory(ledger.memory_events[: end.memory], start=start.memory)
    first = ledger.flop_events[: start.flops]
    second = ledger.flop_events[start.flops : end.flops]
    events = [event for event in first if event.phase == "projection"]
    events += [event for event in second if event.phase != "projection"]
    return StepCost(
        forward_flops=_total(events, "forward"),
        backward_flops=_total(events, "backward"),
        optimizer_flops=_total(events, "optimizer"),
        projection_flops=_total(events, "projection"),
        paper_forward_flops=sum(e.paper_flops for e in events if e.phase == "forward"),
        paper_backward_flops=sum(e.paper_flops for e in events if e.phase == "backward"),
        peak_bytes=memory.peak_bytes,
        peak_param_bytes=memory.high_bytes["param"],
        peak_buffer_bytes=memory.high_bytes["buffer"],
        peak_grad_bytes=memory.high_bytes["grad"],
        peak_activation_bytes=memory.high_bytes["activation"],
        peak_temp_bytes=memory.high_bytes["temp"],
        peak_optimizer_bytes=memory.high_bytes["optimizer"],
        optimizer_state_bytes=memory.end_bytes["optimizer"],
        aten_ops=end.aten_ops - start.aten_ops,
        flops_by_site=_sites(events),
        bytes_at_peak=memory.sites_at_peak,
        peak_phase=_phase_at(memory.peak_index, marks),
        bytes_at_highs=memory.sites_at_highs,
        state_bytes=tuple(site for site in memory.sites_at_end if site.category == "optimizer"),
    )


def _phase_at(event_count: int, marks: _StepMarks) -> Phase:
    """Name the phase in which the last of so many memory events occurred."""
    if event_count <= marks.backward.memory:
        return "forward"
    return "backward" if event_count <= marks.optimizer.memory else "optimizer"


def _total(events: Sequence[FlopEvent], phase: Phase) -> int:
    return sum(event.flops for event in events if event.phase == phase)


def _sites(events: Sequence[FlopEvent]) -> tuple[FlopSite, ...]:
    flops: Counter[tuple[Phase, str, str]] = Counter()
    paper_flops: Counter[tuple[Phase, str, str]] = Counter()
    for event in events:
        site = event.phase, event.module, event.operator
        flops[site] += event.flops
        paper_flops[site] += event.paper_flops
    return tuple(
        sorted(
            FlopSite(*site, flops[site], paper_flops[site])
            for site in flops
            if flops[site] or paper_flops[site]
        )
    )
