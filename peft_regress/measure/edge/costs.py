"""What a case costs in ExecuTorch's runtime, and what running its programs there shows."""

from __future__ import annotations

from dataclasses import dataclass
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
from peft_regress.metrics import make_metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from peft_regress.measure.edge.export import Call, Loss
    from peft_regress.measure.edge.program import Program
    from peft_regress.measure.edge.runtime import Runtime
    from peft_regress.metrics import Metric
    from peft_regress.runs.ledger import Rows


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
    """The programs of an adapted model."""

    training: Program
    inference: Program
    merged: Program | None
    optimizer_state_bytes: int
    """What the case's own optimizer keeps beside the program."""

    @property
    def without_kernel(self) -> list[str]:
        """Return the operators of all programs that have no portable kernel."""
        programs = filter(None, (self.training, self.inference, self.merged))
        return sorted({name for program in programs for name in program.without_kernel})

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return what the programs ask of a device."""
        values = {
            "edge_train_bytes": self.training.planned_bytes + self.optimizer_state_bytes,
            "edge_train_planned_bytes": self.training.planned_bytes,
            "edge_train_program_bytes": self.training.program_bytes,
            "edge_ops": self.training.operators,
            "edge_inference_planned_bytes": self.inference.planned_bytes,
            "edge_inference_program_bytes": self.inference.program_bytes,
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


def edge_programs(subject: EdgeModel, *, optimizer_state_bytes: int) -> EdgePrograms:
    """Export training and inference of an adapted model, and plan their memory.

    Raises `InputError` without ExecuTorch, `UnsupportedProgramError` for what it does not express,
    `ProgramError` if it fails.
    """
    merged = subject.merged
    return EdgePrograms(
        training=training_program(subject.model, subject.batches[0], loss=subject.loss),
        inference=inference_program(subject.model, subject.inputs, call=subject.call),
        merged=(
            None if merged is None else inference_program(merged, subject.inputs, call=subject.call)
        ),
        optimizer_state_bytes=optimizer_state_bytes,
    )


def run_programs(programs: EdgePrograms, subject: EdgeModel, runtime: Runtime) -> EdgeRun:
    """Run the programs in the runtime, and compare with eager PyTorch.

    Raises `UnsupportedProgramError` if the runtime has no kernel for an operator, `ProgramError`
    if it fails, or the program needs more memory than there is; before that, the first for batches
    of several shapes.
    """
    steps = [leaves_of(batch) for batch in subject.batches]
    _check_shapes(steps)
    here = train_here(subject.model, subject.batches, loss=subject.loss)
    there = runtime.train(programs.training, steps, learning_rate=here.learning_rate)
    random = Fact.null("it draws random numbers, which the runtime draws otherwise")
    draws = programs.training.draws
    facts = {
        "edge_programs_run": Fact(holds=True),
        "edge_kernels_exist": Fact.unless(programs.without_kernel),
        "edge_losses_equal_eager": random if draws else same_losses(here, there),
        "edge_gradients_equal_eager": random if draws else same_gradients(here, there),
    }
    pairs = [("edge_outputs_equal_eager", programs.inference, subject.model)]
    if programs.merged is not None and subject.merged is not None:
        pairs.append(("edge_merged_outputs_equal_eager", programs.merged, subject.merged))
    else:
        null = Fact.null("there is no adapter that can be merged")
        facts["edge_merged_outputs_equal_eager"] = null
    for name, program, model in pairs:
        ran = runtime.infer(program, leaves_of(subject.inputs))
        facts[name] = same_outputs(run_here(model, subject.inputs, call=subject.call), ran)
    grown = {"edge_train_resident_bytes": there.resident_bytes}
    return EdgeRun(
        facts=facts,
        metrics={name: make_metric(name, value) for name, value in grown.items() if value},
    )


def _check_shapes(steps: Sequence[Sequence[Tensor]]) -> None:
    """Refuse a batch of other shapes than the first one's, which the program is exported for."""
    first = [_described(each) for each in steps[0]]
    for number, step in enumerate(steps[1:], start=2):
        found = [_described(each) for each in step]
        if found != first:
            msg = (
                f"a program has the shapes of one batch, {' and '.join(first)}, but batch {number} "
                f"is {' and '.join(found)}"
            )
            raise UnsupportedProgramError(msg)


def _described(tensor: Tensor) -> str:
    """Return shape and type, such as 8x3x32x32 float32."""
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
