"""The cost of a step, read off what a ledger has written down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from peft_regress.cost.memory import ByteSite, summarize_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft_regress.cost.recorder import FlopEvent, Ledger, Phase

__all__ = ["FlopSite", "Loss", "Mark", "StepCost", "StepMarks", "mark", "step_cost"]

Loss = Literal["cross-entropy", "sum"]
"""What a step minimizes: cross-entropy against labels, or the plain sum of the logits."""


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


class Mark(NamedTuple):
    """A place in the log."""

    memory: int
    flops: int
    aten_ops: int


class StepMarks(NamedTuple):
    """Where the measured step and its phases begin in the log, and where it ends."""

    start: Mark
    backward: Mark
    optimizer: Mark
    end: Mark


def mark(ledger: Ledger) -> Mark:
    """Note where the log stands."""
    return Mark(len(ledger.memory_events), len(ledger.flop_events), ledger.aten_ops)


def step_cost(ledger: Ledger, marks: StepMarks) -> StepCost:
    """Read the cost of the step between two marks off the log."""
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


def _phase_at(event_count: int, marks: StepMarks) -> Phase:
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
