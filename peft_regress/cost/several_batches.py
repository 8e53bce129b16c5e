"""Measure the steps of several batches on one model, where that gives what each alone gives.

Alone, a step is measured after a whole step that makes the optimizer's state. Here one update makes
it, with gradients that have no values, and then each batch takes one step. That is exact if a step
leaves the log as it found it, gradients apart, if every parameter gets one, and if a step does not
depend on how many there were: the steps of all batches run the same operators, or, where a path
depends on the size of a batch, the updates are the same and the first batch costs the same again.
Each of this is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import RandomTensor
from peft_regress.cost.profile import Step, updates_in_their_phase
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import check_model, check_optimizer
from peft_regress.cost.stand_ins import staged, tensors_used
from peft_regress.cost.step_cost import (
    ByteSite,
    Mark,
    MemoryEvent,
    StepCost,
    StepMarks,
    mark,
    peak_of,
    sites_of,
    step_cost,
)


def profile_batches(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    batches: Sequence[Mapping[str, RandomTensor]],
    loss: Callable[[nn.Module, Any], Tensor],
) -> list[StepCost] | None:
    """Return what `profile_training_step` returns for each batch on fake tensors; None if not sure.

    Also None if anything raises: the steps by themselves say what. The model is left unchanged.
    """
    try:
        return _measured(model, make_optimizer, batches, loss)
    except Exception:  # noqa: BLE001  (the steps by themselves raise it again)
        return None


def _measured(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batches: Sequence[Mapping[str, RandomTensor]],
    loss: Callable[[nn.Module, Any], Tensor],
) -> list[StepCost] | None:
    check_model(model, fake=True)
    with staged(model, (), fake=True) as stage, torch.enable_grad():
        recorder = stage.recorder
        for parameter in model.parameters():
            parameter.grad = None
        with updates_in_their_phase(recorder):
            optimizer, first = _with_state(model, make_optimizer, recorder)

            def taken(batch: Mapping[str, RandomTensor]) -> _Taken | None:
                step = Step(recorder, model, _drawn(batch, model, recorder), loss)
                start = mark(recorder)
                with recorder:
                    marks = StepMarks(start, *step.take(optimizer), mark(recorder))
                if not _leaves_gradients_alone(model, recorder, marks):
                    return None
                cost = step_cost(
                    recorder,
                    marks,
                    first_step_peak_bytes=first.peak_bytes(recorder.memory_events, marks),
                    tensors=tensors_used(fake=True),
                )
                operators = _operators(recorder, marks)
                del step, recorder.flop_events[start.flops :]
                optimizer.zero_grad(set_to_none=True)
                return _Taken(cost, operators)

            steps: list[_Taken] = []
            for batch in batches:
                step = taken(batch)
                if step is None:
                    return None
                steps.append(step)
            if len({step.updates for step in steps}) > 1:
                return None
            if len({step.operators for step in steps}) > 1 and taken(batches[0]) != steps[0]:
                return None
    return [step.cost for step in steps]


class _FirstUpdate(NamedTuple):
    """What the update that makes the optimizer's state does to the memory in use."""

    rise_bytes: int
    """How far it rises meanwhile."""
    kept_bytes: int
    """By how much it is higher afterwards, gradients apart."""

    def peak_bytes(self, events: Sequence[MemoryEvent], marks: StepMarks) -> int:
        """Return the peak of a step with this update: the marked one without the state before it.

        The step is checked to leave nothing else behind.
        """
        update = marks.optimizer.memory
        before_update = peak_of(events, start=marks.start.memory, end=update)
        return max(before_update, _bytes_at(events, update) + self.rise_bytes) - self.kept_bytes


class _Taken(NamedTuple):
    """What a step costs, and which operators it ran, as far as the log tells."""

    cost: StepCost
    operators: tuple[Any, ...]

    @property
    def updates(self) -> tuple[Any, ...]:
        """The operators of the update with their FLOPs."""
        return tuple(one for one in self.operators[1:] if one[0] == "optimizer")


def _with_state(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    recorder: StepRecorder,
) -> tuple[torch.optim.Optimizer, _FirstUpdate]:
    """Return an optimizer that has taken an update, and what the update did."""
    recorder.phase = "optimizer"
    with recorder:
        optimizer = make_optimizer(model)
        check_optimizer(optimizer, model)
    begun = mark(recorder).memory
    recorder.make_gradients()
    update = mark(recorder).memory
    with recorder:
        optimizer.step()
        recorder.hold_parameters()
        end = mark(recorder).memory
        optimizer.zero_grad(set_to_none=True)
    events = recorder.memory_events
    return optimizer, _FirstUpdate(
        rise_bytes=peak_of(events, start=update, end=end) - _bytes_at(events, update),
        kept_bytes=_bytes_at(events, len(events)) - _bytes_at(events, begun),
    )


def _bytes_at(events: Sequence[MemoryEvent], position: int) -> int:
    return sum(event.delta_bytes for event in events[:position])


def _drawn(
    batch: Mapping[str, RandomTensor], model: nn.Module, recorder: StepRecorder
) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    drawn = {name: random.draw(device) for name, random in batch.items()}
    for tensor in drawn.values():
        recorder.hold(tensor, "activation")
    return drawn


def _leaves_gradients_alone(model: nn.Module, recorder: StepRecorder, marks: StepMarks) -> bool:
    """Return whether a step leaves each parameter's gradient, and else what it found."""
    if any(p.requires_grad and p.grad is None for p in model.parameters()):
        return False
    before, after = (_alive(recorder, position) for position in (marks.start, marks.end))
    gradients = {site for site in after if site.category == "grad"}
    return after - gradients == before


def _alive(recorder: StepRecorder, position: Mark) -> set[ByteSite]:
    return set(sites_of(recorder.memory_events[: position.memory]))


def _operators(recorder: StepRecorder, marks: StepMarks) -> tuple[Any, ...]:
    """Return which operators a step ran, as far as the log tells; of the update their FLOPs too."""
    events = recorder.flop_events[marks.start.flops : marks.end.flops]
    return (
        marks.end.aten_ops - marks.start.aten_ops,
        *(
            (e.phase, e.module, e.operator, e.flops if e.phase == "optimizer" else None)
            for e in events
        ),
    )
