"""What a case, or a method on an architecture, costs in ExecuTorch's runtime."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from peft_regress.catalogue.tasks.edge import EDGE_STEPS
from peft_regress.measure import costs
from peft_regress.measure.data import Data
from peft_regress.measure.edge.costs import EdgeModel, EdgePrograms, run_programs
from peft_regress.measure.edge.package import (
    ProgramError,
    UnsupportedProgramError,
    require_executorch,
)
from peft_regress.measure.edge.runtime import shared_runtime
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import (
    device_of,
    on_device,
    seed_all,
)
from peft_regress.metrics import Metric
from peft_regress.runs.ledger import Rows


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
    facts: dict[str, Fact] = {}
    of_run: dict[str, Metric] = {}
    try:
        subject = _case_model(recipe, data)
        programs = EdgePrograms.of(subject, optimizer_state_bytes=optimizer_state_bytes)
        if runs:
            facts, of_run = run_programs(subject, programs, shared_runtime())
    except (UnsupportedProgramError, ProgramError) as error:
        if recipe.runs_in_executorch:
            raise
        return CaseEdge(facts={"edge_programs_run": Fact.false(str(error), error=error)})
    return CaseEdge(metrics={**programs.metrics, **of_run}, plans=programs.plans, facts=facts)


def _case_model(recipe: Recipe, data: Data) -> EdgeModel:
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
        merged=costs.merged_or_none(recipe.adapter.merge, model),
        inputs=costs.first_call(recipe, model, batches[0]),
        call=lambda model, call: model(*call[0], **call[1]),
    )
