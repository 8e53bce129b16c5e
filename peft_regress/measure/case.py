"""Measure a case: cost of one training step, a brief fine-tune for each seed, and invariants.

The one module that joins the torch parts. A case that a library cannot do becomes a record with
the status `unsupported` or `error`, so that its appearing and its vanishing are both seen.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from msgspec import structs
from torch import nn

from peft_regress.cases import Case
from peft_regress.cost import NothingToTrainError, UncountedOperatorError, UnprofilableModelError
from peft_regress.errors import AbsentError, InputError, RefusedAdapterError, UnsupportedCaseError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.imports import CaseError, told
from peft_regress.measure.costs import ProfileCache, Reports, case_costs, metrics_of, step_ledger
from peft_regress.measure.definition import FIRST_LOSSES, define, settings_of
from peft_regress.measure.edge.costs import CaseEdge, edge_of_case
from peft_regress.measure.invariants.facts import trainable
from peft_regress.measure.invariants.outputs import is_half
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.rounds import RoundRunner, Rounds, plain_rounds
from peft_regress.measure.scripts.script_case import ScriptRecipe
from peft_regress.measure.training import single_thread, undisturbed
from peft_regress.metrics import METRICS
from peft_regress.project.project import Project
from peft_regress.project.script import Script
from peft_regress.runs import schema
from peft_regress.runs.ledger import with_plans
from peft_regress.runs.schema import Measurement, Status

_NO_STEP: Final = (NothingToTrainError, UncountedOperatorError, UnprofilableModelError)


def recipe_of(case: Case, baselines: Path, project: Project) -> Recipe | ScriptRecipe:
    """Look up a case, of a project or built in; raises what `Recipe.of` raises."""
    own = project.cases().get(case.id, case)
    if isinstance(own, Script):
        return ScriptRecipe(own, project.settings.folder)
    return Recipe.of(own, baselines)


def briefly(recipe: Recipe | ScriptRecipe, *, in_full: bool) -> Recipe | ScriptRecipe:
    """Return a case that takes only its first steps unless `in_full`; a script that runs once."""
    if isinstance(recipe, ScriptRecipe):
        return replace(recipe, runs_once=True)
    steps = recipe.fine_tune.steps
    shorter = replace(recipe.fine_tune, steps=steps if in_full else min(steps, FIRST_LOSSES))
    return replace(recipe, fine_tune=shorter)


@single_thread()
@undisturbed()
def measure(  # noqa: PLR0913  (all but the recipe have defaults or a name)
    recipe: Recipe | ScriptRecipe,
    *,
    profiles: ProfileCache,
    run_rounds: RoundRunner = plain_rounds,
    timed: bool = True,
    trains: bool = True,
    has_reference: bool = True,
    keep_adapters: Path | None = None,
    keep_referee: bool = False,
    known: Sequence[KnownCurve] = (),
) -> Measurement:
    """Measure one case. An error of a library becomes a record; wrong use raises.

    profiles: cost profiles that built-in cases share. run_rounds: runs the rounds, one for each
    seed. timed: whether `run_rounds` measures time. trains: without it the record holds only the
    costs of a step. has_reference: whether the case was measured before; if not, a ValueError at
    wrapping a case of one's own is wrong use. keep_adapters: the folder that keeps what the case
    would ship, for a later baseline. keep_referee: whether a case that nothing knows is trained in
    float64 too, for the same. known: the trainings of a reference, in float32 and float64: if the
    first seed repeats one, the others take only their first steps.

    Raises `InputError` for wrong use of a case of one's own, and if the stored adapter was altered;
    `SourceError` for a bad source checkpoint.
    """
    if isinstance(recipe, ScriptRecipe):
        record = recipe.measure(has_reference=has_reference, known=known, keep_referee=keep_referee)
        return Measurement(record=record)
    measuring = _Measuring(
        recipe=recipe,
        definition=define(recipe),
        has_reference=has_reference,
        profiles=profiles,
        run_rounds=run_rounds if trains else None,
        timed=timed,
        keep_adapters=keep_adapters,
        keep_referee=keep_referee,
        known=known,
    )
    try:
        # A library's warnings stay warnings, even in a suite that turns them into errors.
        with warnings.catch_warnings(action="default"):
            return measuring.measure()
    except CaseError as error:
        if has_reference:
            return measuring.failed("error", error)
        raise
    except InputError as error:
        if not recipe.is_own or recipe.case.id in str(error):
            raise
        raise InputError(f"FineTune {recipe.case.id!r}: {error}") from error


@dataclass(kw_only=True)
class _Measuring:
    recipe: Recipe
    definition: str
    has_reference: bool
    profiles: ProfileCache
    run_rounds: RoundRunner | None
    timed: bool
    keep_adapters: Path | None
    keep_referee: bool
    known: Sequence[KnownCurve]

    def measure(self) -> Measurement:
        recipe, run_rounds = self.recipe, self.run_rounds
        trains = run_rounds is not None and not recipe.runs_in_executorch
        data = recipe.load_data() if recipe.has_own_step else None
        if data is not None and recipe.is_own:
            recipe = self.recipe = recipe.checked(data)
        try:
            # Only an error of wrapping means unsupported: later errors of the same types are bugs.
            base = recipe.base_model(recipe.seeds[0])
            # A copy: a second build would give the same, and some models take long to build.
            unadapted = copy.deepcopy(base) if trains else None
            first = recipe.adapt(base, seed=recipe.seeds[0])
        except (InputError, AbsentError):
            raise
        except (UnsupportedCaseError, ValueError, NotImplementedError) as error:
            return self.failed("unsupported", self._unless_new(error, RefusedAdapterError))
        except Exception as error:  # noqa: BLE001  (whatever a library raises is this case's state)
            return self.failed("error", self._unless_new(error, InputError))
        rounds = None
        try:
            costs = case_costs(recipe, self.profiles, data)
            state, runs = costs[""].step.optimizer_state_bytes, run_rounds is not None
            in_runtime = edge_of_case(recipe, data, optimizer_state_bytes=state, runs=runs)
            content = self._of_step(first, costs)
            if run_rounds is not None and unadapted is not None:
                rounds = Rounds(
                    recipe,
                    definition=self.definition,
                    base=unadapted,
                    first=first,
                    data=data or recipe.load_data(),
                    keep_adapters=self.keep_adapters,
                    keep_referee=self.keep_referee,
                )
                rounds.run(run_rounds, known=self.known)
        except (InputError, AbsentError):
            raise
        except UnsupportedCaseError as error:
            # Raised by a method that lives in its optimizer, which the library may not have.
            return self.failed("unsupported", error)
        except Exception as error:
            if isinstance(error, _NO_STEP) and recipe.is_own and not self.has_reference:
                raise InputError(str(error)) from error
            taken = 0 if rounds is None else rounds.steps_taken
            return self.failed("error", error, after_steps=taken)
        return self._measured(costs, rounds, in_runtime, content)

    def _of_step(self, first: nn.Module, costs: Reports) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if self.recipe.has_own_step:
            content["batch"] = self.recipe.fine_tune.batch
        if self.recipe.is_own:
            content["trained"] = {name: list(shape) for name, shape in trainable(first).items()}
            content["profiled_on"] = costs[""].step.tensors
            content |= {"numerics": "bfloat16"} if is_half(first) else {}
        return content

    def _unless_new(self, error: Exception, kind: type[InputError]) -> Exception:
        """Return an error of wrapping; raise it as a kind if nothing says that it ever worked."""
        if self.recipe.is_own and not self.has_reference:
            raise kind(f"the adapter cannot be put on the model: {told(error)}") from error
        return error

    def _measured(
        self, costs: Reports, rounds: Rounds | None, in_runtime: CaseEdge, content: dict[str, Any]
    ) -> Measurement:
        recipe, metrics = self.recipe, {**metrics_of(costs), **in_runtime.metrics}
        facts = dict(in_runtime.facts)
        if rounds is not None:
            metrics |= rounds.metrics(timed=self.timed)
            facts = {**rounds.facts, **facts}
        try:
            schema.check_finite(metrics, recipe.case.id)
        except InputError as error:  # no file could hold it
            return self.failed("error", error)
        ordered = {name: metrics[name] for name in METRICS if name in metrics}
        notes = {
            name: fact.note
            for name, fact in facts.items()
            # What does not apply to a built-in method is known.
            if fact.note and (fact.holds is False or recipe.is_own)
        }
        defects = {name: fact.defect for name, fact in facts.items() if fact.holds is False}
        content |= {"invariant_notes": notes} if notes else {}
        content |= {"defects": defects} if defects else {}
        if rounds is not None:
            named = ("curve", "repeats", "referee", "nearby_losses", "rates", "test_items")
            content |= {name: getattr(rounds, name) for name in named}
            if recipe.is_own:
                content["inputs"] = rounds.inputs
        return self._record(
            "ok",
            metrics={**ordered, **metrics},
            invariants={name: fact.holds for name, fact in facts.items()},
            ledger=with_plans(step_ledger(costs), in_runtime.plans),
            **content,
        )

    def failed(self, status: Status, error: Exception, *, after_steps: int = 0) -> Measurement:
        failure = schema.Failure.of_case(error)
        if status == "error":
            failure = structs.replace(failure, after_steps=after_steps)
        return self._record(status, error=failure)

    def _record(self, status: Status, **content: Any) -> Measurement:
        stated: dict[str, Any] = {"error": None, "metrics": {}, "invariants": {}}
        stated |= {"ledger": schema.Ledger(), "numerics": self.recipe.adapter.numerics}
        stated |= {"settings": settings_of(self.recipe), **content}
        case, definition = self.recipe.case, self.definition
        made = schema.Record(case=case, definition=definition, status=status, **stated)
        return Measurement(record=made)
