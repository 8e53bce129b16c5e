"""What one training step costs, in FLOPs and bytes, without computing it.

Under fake tensors a step has shapes and storages but no values: it takes the same time whatever the
batch, and no memory.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from peft_regress.collector import quiet_collector
from peft_regress.cost.ledger import FlopEvent, Ledger, Phase
from peft_regress.cost.memory import ByteSite, summarize_memory
from peft_regress.cost.swap import cloner, swapped_tensors
from peft_regress.errors import PeftRegressError

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


class NothingToTrainError(PeftRegressError):
    """A model of which no parameter would get a gradient: there is no step to measure."""


class UnprofilableModelError(PeftRegressError):
    """A model that cannot be measured without computing it, or whose output is not logits."""


class FlopSite(NamedTuple):
    """FLOPs of one operator in one module and phase of the step; module '' is outside any."""

    phase: Phase
    module: str
    operator: str
    flops: int


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
    """The four FLOP totals, split; the phase 'projection' holds GaLore's SVDs. Sorted."""
    bytes_at_peak: tuple[ByteSite, ...]
    """Who holds `peak_bytes` at the first moment of the peak; sums to it. Sorted."""

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
        input_shape: (batch, channels, height, width), or whatever the model takes; float32.
        num_classes: how many logits the model has.
        loss: cross-entropy against labels, or the plain sum of the logits as the paper has it.
        fake: whether to measure on fake tensors; False runs the step for real, on copies and
            random data, to check that it makes no difference.

    Raises:
        NothingToTrainError: no parameter would get a gradient.
        UnprofilableModelError: the model's path depends on values, an operator has no fake kernel,
            or the output is not logits for `num_classes` classes.
        UncountedOperatorError: an operator does matrix work and has no FLOP formula.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = (
            f"nothing to train: none of the parameters of {type(model).__name__} requires a "
            "gradient. Set requires_grad on those to be trained, the classifier's for example."
        )
        raise NothingToTrainError(message)
    # Real weights may be met as constants that a closure holds, hence allow_non_fake_inputs.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    ledger = Ledger()
    with (
        quiet_collector(),
        _without_attention_fast_path(),
        torch.random.fork_rng(devices=[]),
        swapped_tensors(model, mode.from_tensor if mode is not None else cloner()),
        torch.enable_grad(),
    ):
        for parameter in model.parameters():
            parameter.grad = None
        try:
            with mode if mode is not None else nullcontext():
                start, end = _run(ledger, model, make_optimizer, input_shape, num_classes, loss)
        except (
            DataDependentOutputException,
            DynamicOutputShapeException,
            UnsupportedOperatorException,
        ) as error:
            message = (
                f"{type(model).__name__} cannot be measured on fake tensors: {error} needs values, "
                "or has no fake kernel. Pass fake=False to run the step for real."
            )
            raise UnprofilableModelError(message) from error
        finally:
            ledger.close()
    return _step_cost(ledger, start, end)


class _Mark(NamedTuple):
    """A place in the log."""

    memory: int
    flops: int
    aten_ops: int


def _mark(ledger: Ledger) -> _Mark:
    return _Mark(len(ledger.memory_events), len(ledger.flop_events), ledger.aten_ops)


def _run(  # noqa: PLR0913, PLR0917 - the arguments of profile_step, handed on
    ledger: Ledger,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    input_shape: tuple[int, ...],
    num_classes: int,
    loss: Loss,
) -> tuple[_Mark, _Mark]:
    inputs = torch.randn(input_shape)
    labels = torch.randint(num_classes, input_shape[:1]) if loss == "cross-entropy" else None
    ledger.follow(model)
    ledger.hold(inputs, "activation")
    if labels is not None:
        ledger.hold(labels, "activation")
    with ledger:
        # Some optimizers allocate their state here rather than in the first step.
        ledger.phase = "optimizer"
        optimizer = make_optimizer(model)
        _step(ledger, model, optimizer, inputs, labels, num_classes)
        start = _mark(ledger)
        _step(ledger, model, optimizer, inputs, labels, num_classes)
        # Here, while the optimizer and its state are still alive.
        return start, _mark(ledger)


def _step(  # noqa: PLR0913, PLR0917
    ledger: Ledger,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor | None,
    num_classes: int,
) -> None:
    ledger.start_step()
    optimizer.zero_grad(set_to_none=True)
    logits = _logits(model(inputs), model, num_classes)
    objective = logits.sum() if labels is None else nn.functional.cross_entropy(logits, labels)
    if not objective.requires_grad:
        message = (
            f"nothing to train: no trainable parameter of {type(model).__name__} takes part in "
            "its output."
        )
        raise NothingToTrainError(message)
    ledger.phase = "backward"
    objective.backward()  # type: ignore[no-untyped-call]
    ledger.phase = "optimizer"
    optimizer.step()
    ledger.hold_parameters()


def _logits(output: object, model: nn.Module, num_classes: int) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        message = (
            f"{type(model).__name__} returns a {type(output).__name__}, not a tensor of logits or "
            "an object with one in `logits`"
        )
        raise UnprofilableModelError(message)
    if logits.ndim < 2 or logits.shape[1] != num_classes:  # noqa: PLR2004
        message = (
            f"{type(model).__name__} returns an output of shape {tuple(logits.shape)}; for "
            f"num_classes={num_classes} it has to be (batch, {num_classes}, ...)"
        )
        raise UnprofilableModelError(message)
    return logits


@contextmanager
def _without_attention_fast_path() -> Iterator[None]:
    """Keep frozen attention layers on the operators that fake tensors and formulas know."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _step_cost(ledger: Ledger, start: _Mark, end: _Mark) -> StepCost:
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
    )


def _total(events: Sequence[FlopEvent], phase: Phase) -> int:
    return sum(event.flops for event in events if event.phase == phase)


def _sites(events: Sequence[FlopEvent]) -> tuple[FlopSite, ...]:
    flops: Counter[tuple[Phase, str, str]] = Counter()
    for event in events:
        flops[event.phase, event.module, event.operator] += event.flops
    return tuple(sorted(FlopSite(*site, flops[site]) for site in flops if flops[site]))
