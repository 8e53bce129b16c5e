"""Profile what one training step of a method on an architecture costs; no task, no data.

What a case and `peft-regress cost` share: the step's settings, its metrics, and the ledger that a
run file keeps of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress import registry
from peft_regress.cost import Loss, StepCost, profile_step
from peft_regress.errors import InputError
from peft_regress.finetune import set_modes
from peft_regress.metrics import COST_METRICS, make_metric
from peft_regress.records import Ledger, Metric

if TYPE_CHECKING:
    from torch import nn

    from peft_regress.architectures.protocol import Architecture
    from peft_regress.methods.protocol import Method

__all__ = [
    "Adaptation",
    "CostReport",
    "CostSettings",
    "ProfileCache",
    "adaptation_cost",
    "checked_cost",
    "cost_metrics",
    "step_ledger",
]

_COST_SEED: Final = 0
_CATEGORIES_BY_MODULE: Final = frozenset({"activation", "temp", "grad"})


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
    metrics = {name + suffix: make_metric(name + suffix, value) for name, value in values.items()}
    for name in ("trainable_params", "total_params", "adapter_bytes"):
        metrics[name] = make_metric(name, getattr(report, name))
    return metrics


def step_ledger(step: StepCost) -> Ledger:
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
