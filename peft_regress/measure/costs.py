"""What a case costs: a built-in one on its own shapes, one of the user's on its first batch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft_regress.catalogue.built_in import BuiltIn
from peft_regress.cost import StepCost, Tensors, profile_training_step
from peft_regress.cost.stand_ins import on_fake_or_real
from peft_regress.errors import InputError
from peft_regress.measure.preflight import checked
from peft_regress.measure.recipe import ModelRecipe, Recipe
from peft_regress.measure.seeding import undisturbed
from peft_regress.measure.step_profile import (
    CostReport,
    ProfileCache,
    cost_metrics,
    cost_report,
    running_cost,
    step_ledger,
)
from peft_regress.measure.training import device_of, on_device, single_thread
from peft_regress.measure.user_code import without_traces
from peft_regress.metrics import Metric
from peft_regress.runs.schema import Ledger

if TYPE_CHECKING:
    from torch import nn

    from peft_regress.measure.data import Data


@dataclass(frozen=True, kw_only=True)
class CaseCosts:
    """The costs of a case."""

    reports: Mapping[str, CostReport]
    """By the suffix of their metrics: '' and, of a built-in case, that of batch 32."""
    profiled_on: Tensors

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of all reports."""
        found: dict[str, Metric] = {}
        for suffix, report in self.reports.items():
            found |= cost_metrics(report, suffix=suffix)
        return found

    @property
    def ledger(self) -> Ledger:
        """Return where the costs come from."""
        return step_ledger(self.reports)


@single_thread()
@undisturbed()
def costs_of(recipe: Recipe, profiles: ProfileCache) -> CaseCosts:
    """Return the costs of a case without training it.

    Raises `InputError` for data, a model or an adapter that cannot take a step, and for an own case
    what `check_case` raises.
    """
    has_own_step = recipe.is_own or recipe.runs_in_executorch
    data = recipe.load_data() if has_own_step else None
    if data is not None and recipe.is_own:
        recipe = checked(recipe, data)
    return case_costs(recipe, profiles, data)


def case_costs(recipe: Recipe, profiles: ProfileCache, data: Data | None) -> CaseCosts:
    """Return the costs of a case: with data those of its own step, else of the catalogue's."""
    fine_tune = recipe.fine_tune
    if isinstance(fine_tune, BuiltIn) and not fine_tune.runs_in_executorch:
        return _built_in_costs(fine_tune, profiles)
    assert data is not None  # noqa: S101  (loaded for every other case)
    return own_costs(recipe, next(recipe.batches(data, seed=recipe.seeds[0])))


def _built_in_costs(fine_tune: BuiltIn, profiles: ProfileCache) -> CaseCosts:
    """Return the costs on one image and on 32, which cases of other tasks share."""
    recipe = ModelRecipe(
        method=fine_tune.method, architecture=fine_tune.architecture, rank=fine_tune.case.rank
    )
    return CaseCosts(reports=profiles.get(recipe), profiled_on="fake tensors")


def own_costs(recipe: Recipe, batch: Any) -> CaseCosts:
    """Profile the case's own step on its own batch, and a forward pass as its loss makes it.

    On a model of its own, since an adapter may keep fake tensors of the step.
    """
    adapted = recipe.adapted_model(recipe.seeds[0])
    recipe.set_mode(adapted)
    batch = on_device(batch, device_of(adapted))
    adapter, loss = recipe.adapter, recipe.objective.loss
    running = running_cost(
        adapted,
        first_call(recipe, adapted, batch),
        merge=adapter.merge,
        call=lambda model, call: model(*call[0], **call[1]),
    )

    def step(*, fake: bool) -> StepCost:
        with without_traces(recipe.fine_tune.loss):
            return profile_training_step(
                adapted, recipe.make_optimizer, batch=batch, loss=loss, fake=fake
            )

    found = on_fake_or_real(step)
    report = cost_report(adapted, found, shipped=adapter.shipped_tensors(adapted), running=running)
    return CaseCosts(reports={"": report}, profiled_on=found.tensors)


class _CallCaughtError(Exception):
    """Ends a loss at its first call of the model."""

    def __init__(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        super().__init__()
        self.call = call


def first_call(
    recipe: Recipe, model: nn.Module, batch: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the loss calls the model with, without running it.

    Raises `InputError` if the loss never calls it.
    """

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _CallCaughtError((args, kwargs))

    handle = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with contextlib.suppress(InputError):
            recipe.objective.loss(model, batch)
    except _CallCaughtError as caught:
        return caught.call
    finally:
        handle.remove()
    raise InputError(f"FineTune {recipe.case.id!r}: the loss never calls the adapted model itself")
