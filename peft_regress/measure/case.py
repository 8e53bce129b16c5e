"""Measure a case: cost of one training step, a brief fine-tune for each seed, and invariants.

The one module that joins the torch parts. A case that a library cannot do becomes a record with
the status `unsupported` or `error`, so that its appearing and its vanishing are both seen.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from peft_regress.cases import Case
from peft_regress.catalogue.own_cases import bounds_of, own_fine_tune
from peft_regress.cost import (
    NothingToTrainError,
    UncountedOperatorError,
    UnprofilableModelError,
)
from peft_regress.errors import AbsentError, InputError, UnsupportedCaseError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.imports import told
from peft_regress.measure.costs import CaseCosts, case_costs
from peft_regress.measure.definition import define, settings_of
from peft_regress.measure.edge.case import CaseEdge, edge_of_case
from peft_regress.measure.invariants.outputs import is_half
from peft_regress.measure.invariants.tensors import trainable
from peft_regress.measure.preflight import check_case
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.rounds import RoundRunner, Rounds, plain_rounds
from peft_regress.measure.scripts.script_case import ScriptRecipe
from peft_regress.measure.seeding import undisturbed
from peft_regress.measure.training import single_thread
from peft_regress.measure.user_code import CaseError
from peft_regress.metrics import METRICS
from peft_regress.own_code import code_of
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.ledger import with_plans
from peft_regress.runs.schema import (
    Failure,
    Ledger,
    OwnBound,
    Record,
    Status,
    check_finite,
    limits_of,
)
from peft_regress.script import Script

if TYPE_CHECKING:
    from peft_regress.measure.step_profile import ProfileCache


_NO_STEP: Final = (NothingToTrainError, UncountedOperatorError, UnprofilableModelError)


@contextlib.contextmanager
def _warnings_stay_warnings() -> Iterator[None]:
    """Show a library's warnings, even in a suite that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of measuring one case; the record is what reaches disk."""

    record: Record

    @property
    def status(self) -> Status:
        """Return `ok`, `unsupported` or `error`."""
        return self.record.status

    def value(self, metric: str) -> float:
        """Return a metric's value; raises `AbsentError` if the case does not have it."""
        try:
            return self.record.metrics[metric].value
        except KeyError:
            raise AbsentError(f"{self.record.case.id} has no metric {metric!r}") from None


def recipe_of(case: Case, baselines: Path) -> Recipe | ScriptRecipe:
    """Look up a case; raises what `Recipe.of` raises."""
    own = own_fine_tune(case)
    return ScriptRecipe(own) if isinstance(own, Script) else Recipe.of(case, baselines)


@single_thread()
@undisturbed()
@_warnings_stay_warnings()
def measure(  # noqa: PLR0913  (all but the recipe have defaults or a name)
    recipe: Recipe | ScriptRecipe,
    *,
    profiles: ProfileCache,
    run_rounds: RoundRunner = plain_rounds,
    timed: bool = True,
    trains: bool = True,
    has_reference: bool = True,
    keep_adapters: Path | None = None,
    known: Sequence[KnownCurve] = (),
) -> Measurement:
    """Measure one case. An error of a library becomes a record; wrong use raises.

    profiles: cost profiles that built-in cases share. run_rounds: runs the rounds, one for each
    seed. timed: whether `run_rounds` measures time. trains: without it the record holds only the
    costs of a step. has_reference: whether the case was measured before; if not, a ValueError at
    wrapping a case of one's own is wrong use. keep_adapters: the folder that keeps what the case
    would ship, for a later baseline. known: the curves of a reference, by kind of machine: if the
    first seed repeats that of this one, the others take only their first steps.

    Raises `InputError` for wrong use of a case of one's own, and if the stored adapter was altered;
    `SourceError` for a bad source checkpoint.
    """
    if isinstance(recipe, ScriptRecipe):
        return Measurement(record=recipe.measure(has_reference=has_reference))
    measuring = _Measuring(
        recipe=recipe,
        is_own=recipe.is_own,
        definition=define(recipe),
        has_reference=has_reference,
        profiles=profiles,
        run_rounds=run_rounds if trains else None,
        timed=timed,
        keep_adapters=keep_adapters,
        known=known,
    )
    try:
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
    """One case while it is measured; see `measure` for the parts."""

    recipe: Recipe
    is_own: bool
    definition: str
    has_reference: bool
    profiles: ProfileCache
    run_rounds: RoundRunner | None
    timed: bool
    keep_adapters: Path | None
    known: Sequence[KnownCurve]

    def measure(self) -> Measurement:
        recipe, run_rounds = self.recipe, self.run_rounds
        trains = run_rounds is not None and not recipe.runs_in_executorch
        data = recipe.load_data() if self.is_own or recipe.runs_in_executorch else None
        moving, base = frozenset[str](), None
        if data is not None and self.is_own:
            moving, base = check_case(recipe, data)
            recipe = self.recipe = recipe.shipping(moving)
        try:
            # Only an error of wrapping means unsupported: later errors of the same types are bugs.
            base = recipe.base_model(recipe.seeds[0]) if base is None else base
            # A copy: a second build would give the same, and some models take long to build.
            unadapted = copy.deepcopy(base) if trains else None
            first = recipe.adapt(base, seed=recipe.seeds[0])
        except (InputError, AbsentError):
            raise
        except (UnsupportedCaseError, ValueError, NotImplementedError) as error:
            return self._not_wrapped("unsupported", error)
        except Exception as error:  # noqa: BLE001  (whatever a library raises is this case's state)
            return self._not_wrapped("error", error)
        rounds = None
        try:
            costs = case_costs(recipe, self.profiles, data)
            in_runtime = edge_of_case(
                recipe,
                data,
                optimizer_state_bytes=costs.reports[""].step.optimizer_state_bytes,
                runs=run_rounds is not None,
            )
            trained = trainable(first)
            is_of_half = is_half(first)
            if run_rounds is not None and unadapted is not None:
                rounds = Rounds(
                    recipe,
                    definition=self.definition,
                    base=unadapted,
                    first=first,
                    data=data or recipe.load_data(),
                    moving=moving,
                    keep_adapters=self.keep_adapters,
                )
                rounds.run(run_rounds, known=self._known_here())
        except (InputError, AbsentError):
            raise
        except Exception as error:  # noqa: BLE001
            taken = 0 if rounds is None else rounds.steps_taken
            return self._not_measured(error, after_steps=taken)
        return self._measured(costs, rounds, in_runtime, trained=trained, is_of_half=is_of_half)

    def _known_here(self) -> KnownCurve | None:
        """Return the curve of this definition on this kind of machine."""
        machine = describe_machine().digest if self.known else ""
        fitting = (
            one for one in self.known if (one.machine, one.definition) == (machine, self.definition)
        )
        return next(fitting, None)

    def _measured(
        self,
        costs: CaseCosts,
        rounds: Rounds | None,
        in_runtime: CaseEdge,
        *,
        trained: Mapping[str, tuple[int, ...]],
        is_of_half: bool,
    ) -> Measurement:
        metrics = {**costs.metrics, **in_runtime.metrics}
        facts = dict(in_runtime.facts)
        if rounds is not None:
            metrics |= rounds.metrics(timed=self.timed)
            facts = {**rounds.facts, **facts}
        try:
            check_finite(metrics, self.recipe.case.id)
        except InputError as error:  # no file could hold it
            return self.failed("error", error)
        ordered = {name: metrics[name] for name in METRICS if name in metrics}
        notes = {
            name: fact.note
            for name, fact in facts.items()
            # What does not apply to a built-in method is known.
            if fact.note and (fact.holds is False or self.is_own)
        }
        more: dict[str, Any] = {"invariant_notes": notes} if notes else {}
        defects = {name: fact.defect for name, fact in facts.items() if fact.holds is False}
        if defects:
            more["defects"] = defects
        if rounds is not None:
            more |= {
                "curve": rounds.curve,
                "repeats": rounds.repeats,
                "nearby_losses": rounds.nearby_losses,
                "rates": rounds.rates,
                "test_items": rounds.test_items,
            }
        if self.is_own or self.recipe.runs_in_executorch:
            more["batch"] = self.recipe.fine_tune.batch
        if self.is_own:
            more["trained"] = {name: list(shape) for name, shape in trained.items()}
            more["profiled_on"] = costs.profiled_on
            if is_of_half:
                more["numerics"] = "bfloat16"
            if rounds is not None:
                more["inputs"] = rounds.inputs
        return self._record(
            "ok",
            metrics={**ordered, **metrics},
            invariants={name: fact.holds for name, fact in facts.items()},
            ledger=with_plans(costs.ledger, in_runtime.plans),
            **more,
        )

    def _not_wrapped(self, status: Status, error: Exception) -> Measurement:
        """Return that wrapping fails; raise `InputError` if nothing says that it ever worked."""
        if self.is_own and not self.has_reference:
            raise InputError(
                f"FineTune {self.recipe.case.id!r}: the adapter cannot be put on the model: "
                f"{told(error)}"
            ) from error
        return self.failed(status, error)

    def _not_measured(self, error: Exception, *, after_steps: int) -> Measurement:
        """Return that measuring fails; raise `InputError` if there never was a step to measure."""
        if isinstance(error, UnsupportedCaseError):
            # Raised by a method that lives in its optimizer, which the library may not have.
            return self.failed("unsupported", error)
        if isinstance(error, _NO_STEP) and self.is_own and not self.has_reference:
            raise InputError(str(error)) from error
        return self.failed("error", error, after_steps=after_steps)

    def failed(self, status: Status, error: Exception, *, after_steps: int = 0) -> Measurement:
        raised = error
        if isinstance(error, CaseError) and isinstance(error.__cause__, Exception):
            raised = error.__cause__
        failure = Failure(
            type=type(raised).__name__,
            message=Failure.of(error).message,
            after_steps=after_steps if status == "error" else UNSET,
        )
        return self._record(status, error=failure)

    def _record(self, status: Status, **content: Any) -> Measurement:
        blank: dict[str, Any] = {"error": None, "metrics": {}, "invariants": {}, "ledger": Ledger()}
        blank["settings"] = settings_of(self.recipe)
        fields = {**blank, **_stated(self.recipe), **content}
        made = Record(case=self.recipe.case, definition=self.definition, status=status, **fields)
        return Measurement(record=made)


def _stated(recipe: Recipe) -> dict[str, Any]:
    """Return what the author states beside the definition."""
    fine_tune = recipe.fine_tune
    stated: dict[str, Any] = {"numerics": recipe.adapter.numerics}
    code = code_of(recipe.case)
    if code is not None:
        stated["own_code"] = code
    bounds = bounds_of(fine_tune)
    if bounds:
        stated["bounds"] = {
            name: OwnBound(bound=bound.bound, reason=bound.reason) for name, bound in bounds.items()
        }
    if fine_tune.budget is not None:
        stated["budget"] = limits_of(fine_tune.budget)
    return stated
