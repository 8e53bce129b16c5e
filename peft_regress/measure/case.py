"""Measure a case: cost of one training step, a brief fine-tune for each seed, and invariants.

The one module that joins the torch parts. A case that a library cannot do becomes a record with
the status `unsupported` or `error`, so that its appearing and its vanishing are both seen.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import AbsentError, InputError, UnsupportedCaseError
from peft_regress.measure.fine_tunes import (
    FIRST_LOSSES,
    SEEDS,
    FineTunes,
    RoundRunner,
    plain_rounds,
)
from peft_regress.measure.sources import source_digest
from peft_regress.measure.step_profile import CostSettings, ProfileCache, cost_metrics, step_ledger
from peft_regress.measure.training import loop_definition, single_thread
from peft_regress.metrics import BATCH_SUFFIX, METRICS
from peft_regress.runs.schema import Failure, Ledger, Record, canonical_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peft_regress.measure.recipe import Recipe
    from peft_regress.runs.schema import Status

PROTOCOL_VERSION: Final = 1
"""Raised by hand when the way of measuring changes: older baselines become incomparable."""


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
            msg = f"{self.record.case.id} has no metric {metric!r}"
            raise AbsentError(msg) from None


def define(recipe: Recipe) -> str:
    """Return the digest of what defines a case: data, source bytes, settings, seeds; never code.

    Raises `SourceError` if no source checkpoint is recorded for the architecture.
    """
    case = recipe.case
    return canonical_digest(
        {
            "protocol_version": PROTOCOL_VERSION,
            "case": case.id,
            "source": source_digest(recipe.baselines, case.architecture),
            "task": recipe.task.definition(),
            "method": recipe.model.method.hyperparameters(case.rank),
            "loop": loop_definition(),
            "seeds": list(SEEDS),
            "first_losses": FIRST_LOSSES,
            "cost": {"batches": [1, 32], "resolution": 224, "classes": 10},
        }
    )


@single_thread()
@_warnings_stay_warnings()
def measure(  # noqa: PLR0913  (all but the recipe have defaults or a name)
    recipe: Recipe,
    *,
    profiles: ProfileCache,
    run_rounds: RoundRunner = plain_rounds,
    timed: bool = True,
    trains: bool = True,
    keep_adapters: Path | None = None,
) -> Measurement:
    """Measure one case. An error of a library becomes a record; wrong use raises.

    profiles: cost profiles that cases share. run_rounds: runs the rounds, one for each seed. timed:
    whether `run_rounds` measures time. trains: without it the record holds only the costs of a
    step. keep_adapters: the folder that keeps what the case would ship, for a later baseline.

    Raises `InputError` if the stored adapter was altered, `SourceError` for a bad source
    checkpoint.
    """
    definition = define(recipe)

    def record(status: Status, **content: Any) -> Measurement:
        blank: dict[str, Any] = {"error": None, "metrics": {}, "invariants": {}, "ledger": Ledger()}
        fields = {**blank, **content}
        made = Record(case=recipe.case, definition=definition, status=status, **fields)
        return Measurement(record=made)

    def failed(status: Status, error: Exception) -> Measurement:
        return record(status, error=Failure.of(error))

    fine_tunes = FineTunes(recipe, definition=definition, keep_adapters=keep_adapters)
    try:
        # Only an error of wrapping means unsupported: later errors of the same types are bugs.
        fine_tunes.wrap_first()
    except (InputError, AbsentError):
        raise
    except (UnsupportedCaseError, ValueError, NotImplementedError) as error:
        return failed("unsupported", error)
    except Exception as error:  # noqa: BLE001  (whatever a library raises is this case's state)
        return failed("error", error)
    try:
        reports = {
            suffix: profiles.get(recipe.model, CostSettings(batch=batch))
            for suffix, batch in (("", 1), (BATCH_SUFFIX, 32))
        }
        fine_tunes.run(run_rounds if trains else None)
    except (InputError, AbsentError):
        raise
    except UnsupportedCaseError as error:
        # Raised by a method that lives in its optimizer, which the library may not have.
        return failed("unsupported", error)
    except Exception as error:  # noqa: BLE001
        return failed("error", error)
    metrics = fine_tunes.metrics(timed=timed)
    for suffix, report in reports.items():
        metrics.update(cost_metrics(report, suffix=suffix))
    return record(
        "ok",
        metrics={name: metrics[name] for name in METRICS if name in metrics},
        invariants=fine_tunes.invariants,
        ledger=step_ledger(reports[""], reports[BATCH_SUFFIX]),
    )
