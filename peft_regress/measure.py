"""Measure a case: cost of one training step, a brief fine-tune per seed, and invariants.

The one module that joins the torch parts. What a library cannot do becomes a record of its own
(`unsupported`, `error`), so that its appearing and its vanishing are both seen.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from peft_regress import registry
from peft_regress.cost import Loss, StepCost, profile_step
from peft_regress.errors import (
    AbsentError,
    InputError,
    NonFiniteLossError,
    UnsupportedCaseError,
)
from peft_regress.finetune import evaluate, finetune, loop_definition, set_modes, single_thread
from peft_regress.invariants import InvariantWatch
from peft_regress.matrix import checked_case
from peft_regress.metrics import BATCH_SUFFIX, COST_METRICS, METRICS
from peft_regress.records import Case, Failure, Ledger, Metric, Record, canonical_digest
from peft_regress.sources import build_source, source_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from peft_regress.architectures.protocol import Architecture
    from peft_regress.finetune import TrainingRun
    from peft_regress.methods.protocol import Method
    from peft_regress.records import Status
    from peft_regress.tasks.protocol import Task, TaskData

__all__ = [
    "FIRST_LOSSES",
    "PROTOCOL_VERSION",
    "SEEDS",
    "Adaptation",
    "CostSettings",
    "Measurement",
    "ProfileCache",
    "RoundRunner",
    "adaptation_cost",
    "checked_cost",
    "cost_metrics",
    "define",
    "measure",
    "plain_rounds",
]

PROTOCOL_VERSION: Final = 1
"""Raised by hand when the way of measuring changes: baselines made before become incomparable."""

SEEDS: Final = (0, 1, 2)
FIRST_LOSSES: Final = 4
_COST_SEED: Final = 0
_PROBE_IMAGES: Final = 4
_CATEGORIES_BY_MODULE: Final = frozenset({"activation", "temp", "grad"})


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
class Adaptation:
    """What the cost of a training step depends on; no task."""

    method: str
    architecture: str
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """The step whose cost is profiled; the defaults are those of every stored baseline."""

    batch: int = 1
    resolution: int = 224
    classes: int = 10
    loss: Loss = "cross-entropy"
    bn: str | None = None
    freeze_head: bool = False


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """The cost of a step, and the sizes that no step is needed for."""

    step: StepCost
    trainable_params: int
    total_params: int
    adapter_bytes: int


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


class ProfileCache:
    """Cost reports by adaptation and settings: both tasks of a pairing share one profile."""

    def __init__(self) -> None:
        self._reports: dict[tuple[Adaptation, CostSettings], CostReport] = {}

    def get(self, adaptation: Adaptation, settings: CostSettings) -> CostReport:
        """Return the report, profiling on first use."""
        key = (adaptation, settings)
        if key not in self._reports:
            self._reports[key] = adaptation_cost(adaptation, settings)
        return self._reports[key]


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
def measure(
    case: Case,
    *,
    baselines: Path,
    profiles: ProfileCache,
    run_rounds: RoundRunner = plain_rounds,
    timed: bool = True,
) -> Measurement:
    """Measure one case. An error of a library becomes a record; wrong use raises.

    `baselines` is the folder with `sources/`; `timed` says whether `run_rounds` measures time.
    Raises `InputError` for unknown names and ranks, `SourceError` for a bad source checkpoint.
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

    trial = _Trial(case, baselines)
    try:
        # Wrapping alone decides what is unsupported: later errors of the same types are bugs.
        trial.wrap_first()
    except (InputError, AbsentError):
        raise
    except (UnsupportedCaseError, ValueError, NotImplementedError) as error:
        return failed("unsupported", error)
    except Exception as error:  # noqa: BLE001  (whatever a library raises is this case's state)
        return failed("error", error)
    adaptation = Adaptation(method=case.method, architecture=case.architecture, rank=case.rank)
    try:
        reports = {
            suffix: profiles.get(adaptation, CostSettings(batch=batch))
            for suffix, batch in (("", 1), (BATCH_SUFFIX, 32))
        }
        trial.run(run_rounds)
    except (InputError, AbsentError):
        raise
    except Exception as error:  # noqa: BLE001
        return failed("error", error)
    metrics = {**trial.metrics(timed=timed)}
    for suffix, report in reports.items():
        metrics.update(cost_metrics(report, suffix=suffix))
    return record(
        "ok",
        metrics={name: metrics[name] for name in METRICS if name in metrics},
        invariants=trial.invariants,
        ledger=_ledger(reports[""].step),
    )


def adaptation_cost(adaptation: Adaptation, settings: CostSettings) -> CostReport:
    """Profile one training step of a method on an architecture; needs no data and no source."""
    method: Method = registry.get("method", adaptation.method)
    architecture: Architecture = registry.get("architecture", adaptation.architecture)
    model = architecture.build(num_classes=settings.classes, seed=_COST_SEED)
    model = method.adapt(model, head=architecture.head, rank=adaptation.rank, seed=_COST_SEED)
    if settings.freeze_head:
        _freeze_head(model, architecture.head)
    train_statistics = (
        method.trains_batch_norm_statistics if settings.bn is None else settings.bn == "train"
    )
    set_modes(model, batch_norm_statistics=train_statistics)
    step = profile_step(
        model,
        lambda wrapped: method.make_optimizer(wrapped, rank=adaptation.rank),
        input_shape=(settings.batch, 3, settings.resolution, settings.resolution),
        num_classes=settings.classes,
        loss=settings.loss,
    )
    parameters = list(model.parameters())
    shipped = method.shipped_tensors(model)
    return CostReport(
        step=step,
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        total_params=sum(p.numel() for p in parameters),
        adapter_bytes=sum(t.numel() * t.element_size() for t in shipped.values()),
    )


def checked_cost(adaptation: Adaptation, settings: CostSettings) -> CostReport:
    """Profile for a user: whatever a library says of wrong settings becomes an `InputError`."""
    try:
        return adaptation_cost(adaptation, settings)
    except (ValueError, RuntimeError, NotImplementedError, OverflowError, TypeError) as error:
        msg = f"{adaptation} cannot be profiled with {settings}: {type(error).__name__}: {error}"
        raise InputError(msg) from error


def cost_metrics(report: CostReport, *, suffix: str = "") -> dict[str, Metric]:
    """Return the metrics of a cost report; one that does not apply is absent."""
    values = {name: getattr(report.step, name) for name in COST_METRICS}
    if not report.step.projection_flops:
        del values["projection_flops"]
    metrics = {name + suffix: _metric(name + suffix, value) for name, value in values.items()}
    for name in ("trainable_params", "total_params", "adapter_bytes"):
        metrics[name] = _metric(name, getattr(report, name))
    return metrics


class _Trial:
    """The fine-tuning of one case: one round a seed, evaluated outside the timed part."""

    def __init__(self, case: Case, baselines: Path) -> None:
        self.case = case
        self.baselines = baselines
        self.method: Method = registry.get("method", case.method)
        self.architecture: Architecture = registry.get("architecture", case.architecture)
        self.task: Task = registry.get("task", case.task)
        self.runs: list[TrainingRun] = []
        self.evaluations: list[tuple[float, float]] = []
        self.invariants: dict[str, bool | None] = {}
        self._first: nn.Module | None = None
        self._data: TaskData
        self._watch: InvariantWatch

    def wrap_first(self) -> None:
        """Adapt the model of the first seed, which the invariants are checked on."""
        self._first = self._adapted(self._base_model(SEEDS[0]), SEEDS[0])

    def run(self, run_rounds: RoundRunner) -> None:
        """Fine-tune once a seed."""
        self._data = self.task.load()
        self._watch = InvariantWatch(
            method=self.method,
            rank=self.case.rank,
            head=self.architecture.head,
            base=self._base_model(SEEDS[0]),
            probe=self._data.test_images[:_PROBE_IMAGES],
            seed=SEEDS[0],
        )
        seeds = iter(SEEDS)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            seed = next(seeds)
            if seed == SEEDS[0] and self._first is not None:
                model, self._first = self._first, None
                self._watch.before_training(model)
            else:
                model = self._adapted(self._base_model(seed), seed)
            return (model, self.method.make_optimizer(model, rank=self.case.rank), seed), {}

        run_rounds(self._train, setup=setup, teardown=self._finish, rounds=len(SEEDS))

    def _base_model(self, seed: int) -> nn.Module:
        """Return the source model made ready for the task."""
        model = build_source(self.baselines, self.architecture)
        self.task.prepare(model, head=self.architecture.head, seed=seed)
        return model

    def _adapted(self, base: nn.Module, seed: int) -> nn.Module:
        return self.method.adapt(base, head=self.architecture.head, rank=self.case.rank, seed=seed)

    def _train(self, model: nn.Module, optimizer: Any, seed: int) -> None:
        self.runs.append(
            finetune(
                model,
                optimizer,
                self._data,
                seed=seed,
                first=FIRST_LOSSES,
                batch_norm_statistics=self.method.trains_batch_norm_statistics,
            )
        )

    def _finish(self, model: nn.Module, optimizer: Any, seed: int) -> None:  # noqa: ARG002
        accuracy, loss = evaluate(model, self._data.test_images, self._data.test_labels)
        if not math.isfinite(loss):
            raise NonFiniteLossError(step=len(self.runs[-1].losses), loss=loss, seed=seed)
        self.evaluations.append((accuracy, loss))
        if seed == SEEDS[0]:
            self.invariants = self._watch.after_training(model)

    def metrics(self, *, timed: bool) -> dict[str, Metric]:
        """Return the metrics of the fine-tunes, with one sample a seed."""
        first = [list(run.first_losses) for run in self.runs]
        accuracies = [accuracy for accuracy, _ in self.evaluations]
        losses = [loss for _, loss in self.evaluations]
        metrics = {
            "first_losses": _metric("first_losses", statistics.fmean(s[0] for s in first), first),
            "accuracy": _metric("accuracy", statistics.fmean(accuracies), accuracies),
            "loss": _metric("loss", statistics.fmean(losses), losses),
        }
        if timed:
            seconds = [run.median_step_seconds for run in self.runs]
            metrics["step_seconds"] = _metric("step_seconds", statistics.fmean(seconds), seconds)
        return metrics


def _metric(name: str, value: float, samples: list[Any] | None = None) -> Metric:
    spec = METRICS[name]
    return Metric(
        value=value, unit=spec.unit, direction=spec.direction, kind=spec.kind, samples=samples
    )


def _ledger(step: StepCost) -> Ledger:
    """Keep what attribution needs, and no more: a run file holds one of these a case.

    Modules where a change can hide in one of them: FLOPs of forward and backward, activations,
    gradients. The optimizer treats every tensor alike, so its operators tell more than modules.
    """
    flops: dict[str, dict[str, dict[str, int]]] = {}
    for site in step.flops_by_site:
        module = "" if site.phase == "optimizer" else site.module
        operators = flops.setdefault(site.phase, {}).setdefault(module, {})
        operators[site.operator] = operators.get(site.operator, 0) + site.flops
    sizes: dict[str, dict[str, int]] = {}
    for place in step.bytes_at_peak:
        by_module = sizes.setdefault(place.category, {})
        module = place.module if place.category in _CATEGORIES_BY_MODULE else ""
        by_module[module] = by_module.get(module, 0) + place.bytes
    return Ledger(flops=flops, bytes=sizes)


def _freeze_head(model: nn.Module, head: str) -> None:
    for name, parameter in model.named_parameters():
        if f".{head}." in f".{name}":
            parameter.requires_grad = False
