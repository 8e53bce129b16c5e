"""What a case, or a method on an architecture, costs in ExecuTorch's runtime."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peft_regress.cases import Adaptation
from peft_regress.catalogue.tasks.edge import EDGE_STEPS
from peft_regress.cost import Tensors
from peft_regress.cost.profile import loss_of_images, random_images
from peft_regress.errors import InputError
from peft_regress.measure.costs import case_costs, first_call
from peft_regress.measure.edge.costs import EdgeModel, EdgePrograms, run_programs
from peft_regress.measure.edge.errors import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.package import require_executorch
from peft_regress.measure.edge.runtime import shared_runtime
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.preflight import checked
from peft_regress.measure.recipe import ModelRecipe, Recipe
from peft_regress.measure.seeding import seed_all, undisturbed
from peft_regress.measure.step_profile import (
    CostSettings,
    ProfileCache,
    adapted_model,
    checked_cost,
    cost_metrics,
)
from peft_regress.measure.training import device_of, on_device, single_thread
from peft_regress.metrics import Metric
from peft_regress.runs.ledger import Rows

if TYPE_CHECKING:
    from peft_regress.measure.data import Data


@dataclass(frozen=True, kw_only=True)
class CaseEdge:
    """What a record says of the programs of a case."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    plans: Mapping[str, Rows] = field(default_factory=dict)
    """By the name of the metric that they add up to."""
    facts: Mapping[str, Fact] = field(default_factory=dict)


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
    try:
        subject = case_model(recipe, data)
        programs = EdgePrograms(subject=subject, optimizer_state_bytes=optimizer_state_bytes)
        if not runs:
            return CaseEdge(metrics=programs.metrics, plans=programs.plans)
        run = run_programs(programs, shared_runtime())
        metrics, plans = {**programs.metrics, **run.metrics}, programs.plans
    except (UnsupportedProgramError, ProgramError) as error:
        if recipe.runs_in_executorch:
            raise
        return CaseEdge(facts={"edge_programs_run": Fact.false(str(error), error=error)})
    return CaseEdge(metrics=metrics, plans=plans, facts=run.facts)


def case_model(recipe: Recipe, data: Data) -> EdgeModel:
    """Return the adapted model of a case, with its first batches."""
    seed = recipe.seeds[0]
    model = recipe.adapted_model(seed)
    recipe.set_mode(model)
    seed_all(seed)
    batches = [
        on_device(batch, device_of(model))
        for batch in itertools.islice(recipe.batches(data, seed=seed), EDGE_STEPS)
    ]
    return EdgeModel(
        model=model,
        batches=batches,
        loss=recipe.objective.loss,
        merged=_merged(recipe.adapter.merge, model),
        inputs=first_call(recipe, model, batches[0]),
        call=lambda model, call: model(*call[0], **call[1]),
    )


def _merged(merge: Any, model: nn.Module) -> nn.Module | None:
    """Return the merged model; None if it cannot be: `merge_equals_unmerged` says why."""
    try:
        merged: nn.Module | None = merge(model)
    except Exception:  # noqa: BLE001  (whatever a library raises)
        return None
    return merged


@single_thread()
@undisturbed()
def adaptation_edge(
    names: Adaptation, settings: CostSettings
) -> tuple[dict[str, Metric], Sequence[str]]:
    """Return the costs of a method on an architecture with what its programs ask of a device.

    And the operators without a portable kernel. On random weights and images, which a plan does not
    depend on; nothing is run. Raises `InputError` for wrong settings, without ExecuTorch, and if it
    refuses or fails.
    """
    require_executorch(runs=False)
    report = checked_cost(names, settings)
    subject = _adaptation_model(names, settings)
    state = report.step.optimizer_state_bytes
    programs = EdgePrograms(subject=subject, optimizer_state_bytes=state)
    try:
        metrics = {**cost_metrics(report), **programs.metrics}
    except (UnsupportedProgramError, ProgramError) as error:
        rank = "" if names.rank is None else f"-r{names.rank}"
        raise InputError(
            f"{names.method}{rank} on {names.architecture} has no program for ExecuTorch: {error}"
        ) from error
    return metrics, programs.without_kernel


@dataclass(frozen=True, kw_only=True)
class PricedCase:
    """The costs of a case's step, with what its programs ask of a device."""

    metrics: Mapping[str, Metric]
    profiled_on: Tensors
    without_kernel: Sequence[str] = ()
    """The operators of its programs that have no portable kernel."""
    problem: UnsupportedProgramError | ProgramError | None = None
    """Why it has no programs; None if it has."""


@single_thread()
@undisturbed()
def priced_case(recipe: Recipe, profiles: ProfileCache) -> PricedCase:
    """Return the costs of a case, trained or run nowhere, and what its programs ask of a device.

    The programs of a built-in case outside the edge matrix are those of its costs' step, one image
    of 224x224. Raises `InputError` without ExecuTorch, and for a case that cannot take a step.
    """
    require_executorch(runs=False)
    has_own_step = recipe.is_own or recipe.runs_in_executorch
    data = recipe.load_data() if has_own_step else None
    if data is not None and recipe.is_own:
        recipe = checked(recipe, data)
    costs = case_costs(recipe, profiles, data)
    state = costs.reports[""].step.optimizer_state_bytes
    if data is None:
        subject = _adaptation_model(recipe.case.adaptation, CostSettings())
    else:
        subject = case_model(recipe, data)
    programs = EdgePrograms(subject=subject, optimizer_state_bytes=state)
    try:
        metrics = {**costs.metrics, **programs.metrics}
    except (UnsupportedProgramError, ProgramError) as error:
        return PricedCase(metrics=costs.metrics, profiled_on=costs.profiled_on, problem=error)
    return PricedCase(
        metrics=metrics,
        profiled_on=costs.profiled_on,
        without_kernel=programs.without_kernel,
    )


def _adaptation_model(names: Adaptation, settings: CostSettings) -> EdgeModel:
    recipe = ModelRecipe.of(names)
    model = adapted_model(recipe, settings)
    dtype: torch.dtype = getattr(torch, recipe.method.base_dtype)
    drawn = random_images(settings.input_shape, settings.classes, settings.loss, dtype)
    batch = {name: tensor.draw(torch.device("cpu")) for name, tensor in drawn.items()}
    return EdgeModel(
        model=model,
        batches=[batch],
        loss=loss_of_images(settings.classes),
        merged=_merged(recipe.method.merge, model),
        inputs=batch["inputs"],
        call=lambda model, images: model(images),
    )
