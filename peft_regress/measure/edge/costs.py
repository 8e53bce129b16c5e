"""What the programs of an adapted model cost a device, and that they compute what PyTorch does."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from peft_regress.cost.batches import leaves_of
from peft_regress.measure.edge.errors import UnsupportedProgramError
from peft_regress.measure.edge.export import (
    MODEL,
    floating_outputs,
    inference_program,
    training_program,
)
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.outputs import agree, differing
from peft_regress.metrics import Metric, make_metric
from peft_regress.runs.ledger import Rows

if TYPE_CHECKING:
    from peft_regress.measure.edge.export import Call, Loss
    from peft_regress.measure.edge.program import Program
    from peft_regress.measure.edge.runtime import RanInRuntime, Runtime, TrainedInRuntime


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


_DECREASE: Final = 0.01
"""By which share of the loss the first step of SGD would lower it, were it linear: an update that
is wrong shows, and rounding in the gradients is not amplified."""
LOSS_TOLERANCES: Final = (1e-5, 2e-4)
"""Largest difference of a loss, relative to it, by step; of later steps the last. Loss 1 is a
forward pass, loss 2 shows the first update. Cases take no more steps: later losses amplify
rounding, as in PyTorch itself (1.1e-3 at step 4, of LoRA on mobilenet_v2 at 224x224)."""
GRADIENT_TOLERANCE: Final = 0.02
"""Largest norm of a gradient's difference, relative to the gradient's norm. Activations within
rounding of a kink send their gradient another way. Seen: 5.1e-3, of DoRA on mobilenet_v2 at 96x96,
where PyTorch itself is off by 5.1e-3 from float64, and the runtime by 1.2e-3; of a wrong kernel
(max pool of 1.5.1) 1.1e3."""
_SMALLEST_SHARE: Final = 1e-4
"""A gradient whose norm is a smaller share of the largest one's counts as if it had this share:
rounding in the layers above it is not relative to it."""
OUTPUT_TOLERANCE: Final = 3e-5
"""Largest difference of an output, relative to the largest one: that of merging, since kernels sum
in another order too."""


@dataclass(frozen=True, kw_only=True)
class TrainedHere:
    """What the same steps of SGD gave in eager PyTorch."""

    learning_rate: float
    losses: tuple[float, ...]
    first_gradients: Mapping[str, Tensor]
    """By the name of the parameter in the model."""
    last_gradients: Mapping[str, Tensor]


def train_here(model: nn.Module, batches: Sequence[Any], *, loss: Loss) -> TrainedHere:
    """Take a step of SGD on each batch with a copy of a model, in the mode that it is in.

    The learning rate follows from the first gradients.
    """
    model = copy.deepcopy(model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    losses: list[float] = []
    gradients: list[dict[str, Tensor]] = []
    for batch in batches:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()  # type: ignore[no-untyped-call]
        losses.append(found.item())
        gradients.append(
            {
                name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
                for name, each in trained.items()
            }
        )
        if len(losses) == 1:
            optimizer.param_groups[0]["lr"] = _learning_rate(losses[0], gradients[0].values())
        optimizer.step()
    return TrainedHere(
        learning_rate=optimizer.param_groups[0]["lr"],
        losses=tuple(losses),
        first_gradients=gradients[0],
        last_gradients=gradients[-1],
    )


def _learning_rate(loss: float, gradients: Iterable[Tensor]) -> float:
    squares = sum(float(each.double().square().sum()) for each in gradients)
    rate = _DECREASE * abs(loss) / squares if squares else 0.0
    return rate if math.isfinite(rate) else 0.0


def run_here(model: nn.Module, batch: Any, *, call: Call) -> tuple[Tensor, ...]:
    """Run the forward pass of an inference program in eager PyTorch."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return floating_outputs(call(model, batch))


def same_losses(here: TrainedHere, there: TrainedInRuntime) -> Fact:
    """Return whether the losses of all steps agree."""
    pairs = zip(there.losses, here.losses, strict=True)
    off = [_relative(runtime, eager) for runtime, eager in pairs]
    wrong = [
        f"step {step}: {there.losses[step - 1]:.7g}, in PyTorch {here.losses[step - 1]:.7g}"
        for step, difference in enumerate(off, start=1)
        if not difference <= LOSS_TOLERANCES[min(step, len(LOSS_TOLERANCES)) - 1]
    ]
    if not wrong:
        return Fact(holds=True)
    return Fact.false(listed(wrong), size=max(off, key=_gravity))


def same_gradients(here: TrainedHere, there: TrainedInRuntime) -> Fact:
    """Return whether the gradients of the first step agree, naming the parameters that differ.

    The loss of the first step is right even where its backward pass is wrong.
    """
    off = gradient_differences(here.first_gradients, there.first_gradients)
    wrong = {name: each for name, each in off.items() if not each <= GRADIENT_TOLERANCE}
    if not wrong:
        return Fact(holds=True)
    worst = max(wrong.values(), key=_gravity)
    told = f"{len(wrong)} of {len(off)} gradients differ by up to {worst:.2g} of their norm"
    return Fact.false(f"{told}: {listed(list(wrong))}", tensors=list(wrong), size=worst)


def gradient_differences(
    here: Mapping[str, Tensor], there: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return how far each gradient is off, relative to its norm; infinite where one is missing."""
    there = {name.removeprefix(f"{MODEL}."): each for name, each in there.items()}
    norms = {name: float(each.double().norm()) for name, each in here.items()}
    smallest = _SMALLEST_SHARE * max(norms.values(), default=0.0)
    found: dict[str, float] = {}
    for name in {**here, **there}:
        if name not in here or name not in there or here[name].shape != there[name].shape:
            found[name] = math.inf
            continue
        difference = float((there[name].double() - here[name].double()).norm())
        size = max(norms[name], smallest)
        found[name] = difference / size if size else (0.0 if difference == 0 else math.inf)
    return found


def same_outputs(here: tuple[Tensor, ...], there: RanInRuntime) -> Fact:
    """Return whether the outputs of a forward pass agree."""
    one, other = (tuple(t.float() for t in each) for each in (there.outputs, here))
    if agree(one, other, tolerance=OUTPUT_TOLERANCE):
        return Fact(holds=True)
    return differing(one, other)


def _gravity(difference: float) -> tuple[bool, float]:
    """Return the key that sorts differences, NaN last."""
    return math.isnan(difference), difference


def _relative(found: float, expected: float) -> float:
    difference = abs(found - expected)
    return difference / abs(expected) if expected else difference
