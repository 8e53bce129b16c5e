"""What the programs of a case cost a device, and that they compute what PyTorch does."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.catalogue.tasks.edge import EDGE_STEPS
from peft_regress.cost.batches import call_model, floats_in, leaves_of
from peft_regress.measure import costs
from peft_regress.measure.data import Data
from peft_regress.measure.edge import package, program
from peft_regress.measure.edge.package import require_executorch
from peft_regress.measure.edge.program import Program
from peft_regress.measure.edge.runtime import Ran, Runtime, shared_runtime
from peft_regress.measure.invariants import facts
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.outputs import check_agree
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, on_device, seed_all
from peft_regress.metrics import Metric, make_metric
from peft_regress.runs.ledger import Rows


@dataclass(frozen=True, kw_only=True)
class EdgeModel:
    """An adapted model, and how it trains and runs."""

    model: nn.Module
    """In the mode in which it trains."""
    batches: Sequence[Any]
    """One for each step to compare; the first one has the shapes that are exported."""
    loss: program.Loss
    """(model, batch) -> scalar."""
    merged: nn.Module | None
    """With the adapter folded into its weights; None if it cannot be, or there is none."""
    inputs: Any
    """What a forward pass takes, as for `call_model`."""


@dataclass(frozen=True, kw_only=True)
class CaseEdge:
    """What a record says of the programs of a case."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    plans: Mapping[str, Rows] = field(default_factory=dict)
    """By the name of the metric that they add up to."""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def exported(subject: EdgeModel) -> dict[str, Program]:
    """Export and plan a training step, and a forward pass, also of the merged model.

    Raises `InputError` without ExecuTorch, `UnsupportedProgramError` for what it does not express,
    `ProgramError` if it fails.
    """
    # The training first: where the runtime refuses it, nothing else is planned.
    found = {
        "train": program.training_program(subject.model, subject.batches[0], loss=subject.loss),
        "inference": program.inference_program(subject.model, subject.inputs),
    }
    if subject.merged is not None:
        found["merged_inference"] = program.inference_program(subject.merged, subject.inputs)
    return found


def planned(programs: Mapping[str, Program], *, optimizer_state_bytes: int) -> CaseEdge:
    """Return what programs ask of a device, and beside them the state of the case's optimizer."""
    training = programs["train"]
    plans = {f"edge_{name}_planned_bytes": each.plan for name, each in programs.items()}
    values = {
        "edge_train_bytes": training.planned_bytes + optimizer_state_bytes,
        "edge_ops": sum(training.calls.values()),
        **{f"edge_{name}_program_bytes": len(each.content) for name, each in programs.items()},
        **{name: sum(rows.values()) for name, rows in plans.items()},
    }
    metrics = {name: make_metric(name, value) for name, value in values.items()}
    return CaseEdge(metrics=metrics, plans=plans)


def run_programs(
    subject: EdgeModel, programs: Mapping[str, Program], runtime: Runtime
) -> tuple[dict[str, Fact], dict[str, Metric]]:
    """Run the programs in the runtime, and compare with eager PyTorch.

    Returns the invariants, and how much memory the runtime's process took: shown, not judged.
    Raises `UnsupportedProgramError` for batches of several shapes, and if the runtime has no kernel
    for an operator; `ProgramError` if it fails.
    """
    steps = [leaves_of(batch) for batch in subject.batches]
    _check_shapes(steps)
    here = train_here(subject.model, subject.batches, loss=subject.loss)
    training = programs["train"]
    there = runtime.run(training, steps, learning_rate=here.learning_rate)
    lacking = {name for each in programs.values() for name in each.without_kernel}
    random = facts.null("it draws random numbers, which the runtime draws otherwise").fact
    unmerged = facts.null("there is no adapter that can be merged").fact
    found = {
        "edge_programs_run": Fact(holds=True),
        "edge_losses_equal_eager": random if training.draws else same_losses(here, there),
        "edge_gradients_equal_eager": random if training.draws else same_gradients(here, there),
        "edge_merged_outputs_equal_eager": unmerged,
        "edge_kernels_exist": facts.judged(facts.check_none)(sorted(lacking)),
    }
    for fact, name, model in (
        ("edge_outputs_equal_eager", "inference", subject.model),
        ("edge_merged_outputs_equal_eager", "merged_inference", subject.merged),
    ):
        if model is not None:
            with torch.no_grad():
                here_too = call_model(copy.deepcopy(model).eval(), subject.inputs)
            ran = runtime.run(programs[name], [leaves_of(subject.inputs)])
            found[fact] = same_outputs(tuple(floats_in(here_too)), ran)
    grown = {"edge_train_resident_bytes": there.resident_bytes}
    return found, {name: make_metric(name, value) for name, value in grown.items() if value}


def _check_shapes(steps: Sequence[Sequence[Tensor]]) -> None:
    first, *others = ([(tuple(each.shape), each.dtype) for each in step] for step in steps)
    for number, found in enumerate(others, start=2):
        if found != first:
            raise package.UnsupportedProgramError(
                f"a program has the shapes of one batch, {first}, but batch {number} is {found}"
            )


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
"""Largest difference of an output, relative to the largest: merging's, as kernels sum otherwise."""


@dataclass(frozen=True, kw_only=True)
class TrainedHere:
    """What the same steps of SGD gave in eager PyTorch."""

    learning_rate: float
    losses: tuple[float, ...]
    gradients: Mapping[str, Tensor]
    """Those of the first step, by the name of the parameter in the model."""


def train_here(model: nn.Module, batches: Sequence[Any], *, loss: program.Loss) -> TrainedHere:
    """Take a step of SGD on each batch with a copy, at a rate by the first gradients."""
    model = copy.deepcopy(model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    rate = 0.0
    for batch in batches:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()  # type: ignore[no-untyped-call]
        losses.append(found.item())
        if len(losses) == 1:
            gradients = {
                name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
                for name, each in trained.items()
            }
            squares = sum(float(each.double().square().sum()) for each in gradients.values())
            decreasing = _DECREASE * abs(losses[0]) / squares if squares else 0.0
            rate = decreasing if math.isfinite(decreasing) else 0.0
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return TrainedHere(learning_rate=rate, losses=tuple(losses), gradients=gradients)


@facts.judged
def same_losses(here: TrainedHere, there: Ran) -> None:
    """Check that the losses of all steps agree."""
    pairs = list(zip(there.losses, here.losses, strict=True))
    off = [abs(runtime - eager) / (abs(eager) or 1) for runtime, eager in pairs]
    wrong = [
        f"step {step}: {pairs[step - 1][0]:.7g}, in PyTorch {pairs[step - 1][1]:.7g}"
        for step, difference in enumerate(off, start=1)
        if not difference <= LOSS_TOLERANCES[min(step, len(LOSS_TOLERANCES)) - 1]
    ]
    if wrong:
        raise facts.false(facts.listed(wrong), size=max(off, key=facts.gravity))


@facts.judged
def same_gradients(here: TrainedHere, there: Ran) -> None:
    """Check that the gradients of the first step agree, naming the parameters that differ.

    The loss of the first step is right even where its backward pass is wrong.
    """
    off = gradient_differences(here.gradients, there.tensors)
    wrong = {name: each for name, each in off.items() if not each <= GRADIENT_TOLERANCE}
    if wrong:
        worst = max(wrong.values(), key=facts.gravity)
        told = f"{len(wrong)} of {len(off)} gradients differ by up to {worst:.2g} of their norm"
        note = f"{told}: {facts.listed(list(wrong))}"
        raise facts.false(note, tensors=list(wrong), size=worst)


def gradient_differences(
    here: Mapping[str, Tensor], there: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return how far each gradient is off, relative to its norm; infinite where one is missing."""
    there = {name.removeprefix(f"{program.MODEL}."): each for name, each in there.items()}
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


@facts.judged
def same_outputs(here: tuple[Tensor, ...], there: Ran) -> None:
    """Check that the outputs of a forward pass agree."""
    outputs = [there.tensors[str(number)] for number in range(len(there.tensors))]
    one, other = (tuple(t.float() for t in each) for each in (outputs, here))
    check_agree(one, other, tolerance=OUTPUT_TOLERANCE)


def edge_of_case(
    recipe: Recipe, data: Data | None, *, optimizer_state_bytes: int, runs: bool
) -> CaseEdge:
    """Export the programs of a case and run them, if its budget limits what it takes there.

    Those of a built-in case of the edge matrix too. A program that cannot be made or run is a fact,
    with what ExecuTorch says, and no number; but such a built-in case has nothing else.

    data: None for any other built-in case, which has no programs. runs: without it the programs are
    only planned. Raises `InputError` if ExecuTorch cannot be used; for a case of the edge matrix
    also `UnsupportedProgramError` and `ProgramError`.
    """
    budget = recipe.fine_tune.budget
    is_limited = budget is not None and budget.edge_train is not None
    if data is None or not (is_limited or recipe.runs_in_executorch):
        return CaseEdge()
    require_executorch(runs=runs)
    of_runtime: dict[str, Fact] = {}
    of_run: dict[str, Metric] = {}
    try:
        subject = _case_model(recipe, data)
        programs = exported(subject)
        if runs:
            of_runtime, of_run = run_programs(subject, programs, shared_runtime())
    except (package.UnsupportedProgramError, package.ProgramError) as error:
        if recipe.runs_in_executorch:
            raise
        return CaseEdge(facts={"edge_programs_run": facts.false(str(error), error=error).fact})
    found = planned(programs, optimizer_state_bytes=optimizer_state_bytes)
    return replace(found, metrics={**found.metrics, **of_run}, facts=of_runtime)


def _case_model(recipe: Recipe, data: Data) -> EdgeModel:
    seed = recipe.seeds[0]
    model = recipe.adapted_model(seed)
    recipe.set_mode(model)
    seed_all(seed)
    first = itertools.islice(recipe.batches(data, seed=seed), EDGE_STEPS)
    batches = [on_device(batch, device_of(model)) for batch in first]
    return EdgeModel(
        model=model,
        batches=batches,
        loss=recipe.objective.loss,
        merged=facts.attempt(lambda: recipe.adapter.merge(model)),
        inputs=costs.first_call(recipe, model, batches[0]),
    )
