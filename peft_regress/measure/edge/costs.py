"""What a case costs in ExecuTorch's runtime, and what running its programs there shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from peft_regress.cost.batches import leaves_of
from peft_regress.measure.edge.eager import (
    run_here,
    same_gradients,
    same_losses,
    same_outputs,
    train_here,
)
from peft_regress.measure.edge.errors import UnsupportedProgramError
from peft_regress.measure.edge.export import inference_program, training_program
from peft_regress.measure.invariants.facts import Fact
from peft_regress.metrics import Metric, make_metric
from peft_regress.runs.ledger import Rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peft_regress.measure.edge.export import Call, Loss
    from peft_regress.measure.edge.program import Program
    from peft_regress.measure.edge.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class EdgeModel:
    """An adapted model, and how it trains and runs."""

    model: nn.Module
    """In the mode in which it trains."""
    batches: Sequence[Any]
    """One for each step to compare; the first one has the shapes that are exported."""
    loss: Loss
    """(model, batch) -> scalar."""
    merged: nn.Module | None
    """With the adapter folded into its weights; None if it cannot be, or there is none."""
    inputs: Any
    """What a forward pass takes: a tree of tensors."""
    call: Call
    """(model, inputs) -> output."""


@dataclass(frozen=True, kw_only=True)
class EdgePrograms:
    """The programs of an adapted model.

    Each is exported and planned when it is first asked for: where the runtime refuses the training,
    nothing else is planned. Whatever asks raises `InputError` without ExecuTorch,
    `UnsupportedProgramError` for what it does not express, `ProgramError` if it fails.
    """

    subject: EdgeModel
    optimizer_state_bytes: int
    """What the case's own optimizer keeps beside the program."""

    @cached_property
    def training(self) -> Program:
        """Return the program of a training step."""
        subject = self.subject
        return training_program(subject.model, subject.batches[0], loss=subject.loss)

    @cached_property
    def inference(self) -> Program:
        """Return the program of a forward pass."""
        return self._forward(self.subject.model)

    @cached_property
    def merged(self) -> Program | None:
        """Return the program of a forward pass of the merged model; None if there is none."""
        merged = self.subject.merged
        return None if merged is None else self._forward(merged)

    def _forward(self, model: nn.Module) -> Program:
        return inference_program(model, self.subject.inputs, call=self.subject.call)

    @property
    def without_kernel(self) -> list[str]:
        """Return the operators of all programs that have no portable kernel."""
        programs = filter(None, (self.training, self.inference, self.merged))
        return sorted({name for program in programs for name in program.without_kernel})

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return what the programs ask of a device."""
        training, inference = self.training, self.inference
        values = {
            "edge_train_bytes": training.planned_bytes + self.optimizer_state_bytes,
            "edge_train_planned_bytes": training.planned_bytes,
            "edge_train_program_bytes": training.program_bytes,
            "edge_ops": training.operators,
            "edge_inference_planned_bytes": inference.planned_bytes,
            "edge_inference_program_bytes": inference.program_bytes,
        }
        if self.merged is not None:
            values |= {
                "edge_merged_inference_planned_bytes": self.merged.planned_bytes,
                "edge_merged_inference_program_bytes": self.merged.program_bytes,
            }
        return {name: make_metric(name, value) for name, value in values.items()}

    @property
    def plans(self) -> dict[str, Rows]:
        """Return the rows of each metric that counts planned bytes; they add up to it."""
        found = {
            "edge_train_planned_bytes": self.training.plan,
            "edge_inference_planned_bytes": self.inference.plan,
        }
        if self.merged is not None:
            found["edge_merged_inference_planned_bytes"] = self.merged.plan
        return found


@dataclass(frozen=True, kw_only=True)
class EdgeRun:
    """What running the programs in the runtime shows."""

    facts: Mapping[str, Fact]
    """By the name of the invariant."""
    metrics: Mapping[str, Metric]
    """How much memory the runtime's process took; shown, not judged."""


def run_programs(programs: EdgePrograms, runtime: Runtime) -> EdgeRun:
    """Run the programs in the runtime, and compare with eager PyTorch.

    Raises `UnsupportedProgramError` if the runtime has no kernel for an operator, `ProgramError`
    if it fails, or the program needs more memory than there is; before that, the first for batches
    of several shapes. Also what planning a program raises.
    """
    subject = programs.subject
    trained, resident_bytes = _train(programs.training, subject, runtime)
    facts = {"edge_programs_run": Fact(holds=True), **trained}
    facts["edge_outputs_equal_eager"] = _infer(programs.inference, subject, subject.model, runtime)
    facts["edge_merged_outputs_equal_eager"] = (
        Fact.null("there is no adapter that can be merged")
        if programs.merged is None or subject.merged is None
        else _infer(programs.merged, subject, subject.merged, runtime)
    )
    facts["edge_kernels_exist"] = Fact.unless(programs.without_kernel)
    grown = {"edge_train_resident_bytes": resident_bytes} if resident_bytes else {}
    return EdgeRun(
        facts=facts, metrics={name: make_metric(name, value) for name, value in grown.items()}
    )


def _train(program: Program, subject: EdgeModel, runtime: Runtime) -> tuple[dict[str, Fact], int]:
    """Return what the losses and gradients show, and the memory that the runtime took in bytes."""
    steps = [leaves_of(batch) for batch in subject.batches]
    _check_shapes(steps)
    here = train_here(subject.model, subject.batches, loss=subject.loss)
    there = runtime.train(program, steps, learning_rate=here.learning_rate)
    random = Fact.null("it draws random numbers, which the runtime draws otherwise")
    facts = {
        "edge_losses_equal_eager": random if program.draws else same_losses(here, there),
        "edge_gradients_equal_eager": random if program.draws else same_gradients(here, there),
    }
    return facts, there.resident_bytes


def _infer(program: Program, subject: EdgeModel, model: nn.Module, runtime: Runtime) -> Fact:
    here = run_here(model, subject.inputs, call=subject.call)
    there = runtime.infer(program, leaves_of(subject.inputs))
    return same_outputs(here, there)


def _check_shapes(steps: Sequence[Sequence[Tensor]]) -> None:
    """Refuse a batch of other shapes than the first one's, which the program is exported for."""
    first = [_described(each) for each in steps[0]]
    for number, step in enumerate(steps[1:], start=2):
        found = [_described(each) for each in step]
        if found != first:
            raise UnsupportedProgramError(
                f"a program has the shapes of one batch, {' and '.join(first)}, but batch {number} "
                f"is {' and '.join(found)}"
            )


def _described(tensor: Tensor) -> str:
    """Return shape and type, such as 8x3x32x32 float32."""
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
