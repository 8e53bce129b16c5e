"""Measure a case: cost of one training step, a brief fine-tune per seed, and invariants.

The one module that joins the torch parts. What a library cannot do becomes a record of its own
(`unsupported`, `error`), so that its appearing and its vanishing are both seen.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from peft_regress import registry
from peft_regress.baselines.adapters import keep_adapter, stored_adapter
from peft_regress.catalogue.matrix import checked_case
from peft_regress.errors import (
    AbsentError,
    InputError,
    NonFiniteLossError,
    UnsupportedCaseError,
)
from peft_regress.measure.invariants import InvariantWatch, StoredOutput
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.sources import source_digest
from peft_regress.measure.step_profile import (
    CostSettings,
    ProfileCache,
    cost_metrics,
    step_ledger,
)
from peft_regress.measure.training import evaluate, loop_definition, single_thread
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Metric, make_metric
from peft_regress.runs.schema import Failure, Ledger, Record, canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from peft_regress.cases import Case
    from peft_regress.catalogue.methods.protocol import Method
    from peft_regress.catalogue.tasks.protocol import Task, TaskData
    from peft_regress.measure.training import TrainingRun
    from peft_regress.runs.schema import Status

__all__ = [
    "FIRST_LOSSES",
    "PROTOCOL_VERSION",
    "SEEDS",
    "Measurement",
    "RoundRunner",
    "define",
    "measure",
    "plain_rounds",
]

PROTOCOL_VERSION: Final = 1
"""Raised by hand when the way of measuring changes: baselines made before become incomparable."""

SEEDS: Final = (0, 1, 2)
FIRST_LOSSES: Final = 4
_PROBE_IMAGES: Final = 4


@contextlib.contextmanager
def _warnings_as_warnings() -> Iterator[None]:
    """Show a library's warnings where a suite turns them into errors: they change no case."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


class RoundRunner(Protocol):
    """Anything that runs `target` for some rounds, as pytest-benchmark's `pedantic` does."""

    def __call__(
        self,
        target: Callable[..., Any],
        *,
        setup: Callable[[], Any],
        teardown: Callable[..., Any],
        rounds: int,
    ) -> Any:
        """Call setup, target with what setup returned, then teardown, for each round."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a case measured; the record is what reaches disk."""

    record: Record

    @property
    def status(self) -> Status:
        """Return `ok`, `unsupported` or `error`."""
        return self.record.status

    def value(self, metric: str) -> float:
        """Return a metric's value; raises `AbsentError` where it does not apply."""
        try:
            return self.record.metrics[metric].value
        except KeyError:
            msg = f"{self.record.case.id} has no metric {metric!r}"
            raise AbsentError(msg) from None


def plain_rounds(
    target: Callable[..., Any],
    *,
    setup: Callable[[], Any],
    teardown: Callable[..., Any],
    rounds: int,
) -> None:
    """Run the rounds without timing them."""
    for _ in range(rounds):
        args, kwargs = setup()
        target(*args, **kwargs)
        teardown(*args, **kwargs)


def define(case: Case, baselines: Path) -> str:
    """Return the digest of what defines a case: data, source bytes, settings, seeds; never code.

    Raises `InputError` for unknown names and ranks, `SourceError` where no source is recorded.
    """
    checked_case(task=case.task, method=case.method, architecture=case.architecture, rank=case.rank)
    method: Method = registry.get("method", case.method)
    task: Task = registry.get("task", case.task)
    return canonical_digest(
        {
            "protocol_version": PROTOCOL_VERSION,
            "case": case.id,
            "source": source_digest(baselines, case.architecture),
            "task": task.definition(),
            "method": method.hyperparameters(case.rank),
            "loop": loop_definition(),
            "seeds": list(SEEDS),
            "first_losses": FIRST_LOSSES,
            "cost": {"batches": [1, 32], "resolution": 224, "classes": 10},
        }
    )


@single_thread()
@_warnings_as_warnings()
def measure(  # noqa: PLR0913  (each by its name)
    case: Case,
    *,
    baselines: Path,
    profiles: ProfileCache,
    run_rounds: RoundRunner = plain_rounds,
    timed: bool = True,
    trains: bool = True,
    keep_adapters: Path | None = None,
) -> Measurement:
    """Measure one case. An error of a library becomes a record; wrong use raises.

    `baselines` is the folder with `sources/` and `adapters/`; `timed` says whether `run_rounds`
    measures time. Unless it `trains`, the record has the costs of a step alone. What the case would
    ship is kept in the folder `keep_adapters` where a baseline may want it. Raises `InputError` for
    unknown names and ranks and an altered stored adapter, `SourceError` for a bad source
    checkpoint.
    """
    definition = define(case, baselines)

    def record(status: Status, **content: Any) -> Measurement:
        blank: dict[str, Any] = {"error": None, "metrics": {}, "invariants": {}, "ledger": Ledger()}
        fields = {**blank, **content}
        return Measurement(record=Record(case=case, definition=definition, status=status, **fields))

    def failed(status: Status, error: Exception) -> Measurement:
        # A file name in a message may hold bytes that are no text; the record must stay writable.
        message = str(error).encode("utf-8", "backslashreplace").decode().strip() or "no message"
        return record(status, error=Failure(type=type(error).__name__, message=message))

    trial = _Trial(case, baselines, definition=definition, keep_adapters=keep_adapters)
    try:
        # Wrapping alone decides what is unsupported: later errors of the same types are bugs.
        trial.wrap_first()
    except (InputError, AbsentError):
        raise
    except (UnsupportedCaseError, ValueError, NotImplementedError) as error:
        return failed("unsupported", error)
    except Exception as error:  # noqa: BLE001  (whatever a library raises is this case's state)
        return failed("error", error)
    try:
        reports = {
            suffix: profiles.get(case.adaptation, CostSettings(batch=batch))
            for suffix, batch in (("", 1), (BATCH_SUFFIX, 32))
        }
        trial.run(run_rounds if trains else None)
    except (InputError, AbsentError):
        raise
    except UnsupportedCaseError as error:
        # Raised by a method that lives in its optimizer, which the library may not have.
        return failed("unsupported", error)
    except Exception as error:  # noqa: BLE001
        return failed("error", error)
    metrics = trial.metrics(timed=timed)
    for suffix, report in reports.items():
        metrics.update(cost_metrics(report, suffix=suffix))
    return record(
        "ok",
        metrics={name: metrics[name] for name in METRICS if name in metrics},
        invariants=trial.invariants,
        ledger=step_ledger(reports[""], reports[BATCH_SUFFIX]),
    )


class _Trial:
    """The fine-tuning of one case: one round a seed, evaluated outside the timed part."""

    def __init__(
        self, case: Case, baselines: Path, *, definition: str, keep_adapters: Path | None
    ) -> None:
        self._pairing = Recipe.of(case, baselines)
        self.runs: list[TrainingRun] = []
        self.evaluations: list[tuple[float, float]] = []
        self.invariants: dict[str, bool | None] = {}
        self._definition = definition
        self._keep_adapters = keep_adapters
        found = stored_adapter(baselines, case, definition)
        self._stored = found and StoredOutput(folder=found[0], logits=found[1].output)
        self._first: nn.Module | None = None
        self._data: TaskData
        self._watch: InvariantWatch

    def wrap_first(self) -> None:
        """Adapt the model of the first seed, which the invariants are checked on."""
        self._first = self._adapted(SEEDS[0])

    def run(self, run_rounds: RoundRunner | None) -> None:
        """Fine-tune once a seed; not at all where nothing runs the rounds."""
        if run_rounds is None:
            return
        pairing = self._pairing
        self._data = pairing.load_data()
        self._watch = InvariantWatch(
            method=pairing.method,
            rank=pairing.case.rank,
            head=pairing.architecture.head,
            base=pairing.base_model(SEEDS[0]),
            probe=self._data.test_images[:_PROBE_IMAGES],
            labels=self._data.test_labels[:_PROBE_IMAGES],
            stored=self._stored,
        )
        seeds = iter(SEEDS)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            seed = next(seeds)
            if seed == SEEDS[0] and self._first is not None:
                model, self._first = self._first, None
                self._watch.before_training(model)
            else:
                model = self._adapted(seed)
            optimizer = pairing.make_optimizer(model)
            if seed == SEEDS[0]:
                self._watch.watch_first_step(model, optimizer)
            return (model, optimizer, seed), {}

        run_rounds(self._train, setup=setup, teardown=self._finish, rounds=len(SEEDS))

    def _adapted(self, seed: int) -> nn.Module:
        return self._pairing.adapt(self._pairing.base_model(seed), seed)

    def _train(self, model: nn.Module, optimizer: Any, seed: int) -> None:
        self.runs.append(
            self._pairing.train(model, optimizer, self._data, seed=seed, first=FIRST_LOSSES)
        )

    def _finish(self, model: nn.Module, optimizer: Any, seed: int) -> None:
        accuracy, loss = evaluate(model, self._data.test_images, self._data.test_labels)
        if not math.isfinite(loss):
            raise NonFiniteLossError(step=len(self.runs[-1].losses), loss=loss, seed=seed)
        self.evaluations.append((accuracy, loss))
        if seed == SEEDS[0]:
            self.invariants = self._watch.after_training(model, optimizer)
            if self._keep_adapters is not None and self.invariants["saved_adapter_reloads"]:
                keep_adapter(
                    self._keep_adapters,
                    self._pairing.case,
                    definition=self._definition,
                    output=self._watch.logits(model),
                    save=functools.partial(self._pairing.method.save, model),
                )

    def metrics(self, *, timed: bool) -> dict[str, Metric]:
        """Return the metrics of the fine-tunes, with one sample a seed; none where none ran."""
        if not self.runs:
            return {}
        first = [list(run.first_losses) for run in self.runs]
        mean_of_first = statistics.fmean(losses[0] for losses in first)
        samples = {
            "accuracy": [accuracy for accuracy, _ in self.evaluations],
            "loss": [loss for _, loss in self.evaluations],
        }
        if timed:
            samples["step_seconds"] = [run.median_step_seconds for run in self.runs]
        filled = self._watch.filled_losses
        if filled is not None:
            samples["filled_losses"] = list(filled)
        return {
            "first_losses": make_metric("first_losses", mean_of_first, first),
            **{name: make_metric(name, statistics.fmean(s), s) for name, s in samples.items()},
        }
