"""Profile what one training step of a method on an architecture costs; no task, no data.

A case and `peft-regress cost` share this: the settings of the step, its metrics, and the ledger
that a run file keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.cases import Adaptation
from peft_regress.catalogue.built_in import set_modes
from peft_regress.catalogue.methods.method import cast_base
from peft_regress.cost import (
    InferenceCost,
    Loss,
    NothingToTrainError,
    StepCost,
    call_model,
    profile_inference,
    profile_step,
)
from peft_regress.cost.module_trail import module_names
from peft_regress.errors import InputError
from peft_regress.measure.recipe import ModelRecipe
from peft_regress.metrics import BATCH_SUFFIX, COST_METRICS, Metric, make_metric
from peft_regress.runs.ledger import Rows, pack
from peft_regress.runs.schema import Ledger

_COST_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """The step whose cost is profiled; the defaults are those of every stored baseline."""

    batch: int = 1
    resolution: int = 224
    classes: int = 10
    loss: Loss = "cross-entropy"
    bn: str | None = None
    freeze_head: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of the images."""
        return (self.batch, 3, self.resolution, self.resolution)


@dataclass(frozen=True, kw_only=True)
class RunningCost:
    """The cost of running an adapted model: a forward pass in eval mode."""

    attached: InferenceCost
    merged: InferenceCost | None
    """None if the adapter cannot be merged, or there is none."""
    merged_bytes: int = 0
    """Of the merged model's parameters and buffers."""


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """The cost of a step, and the sizes that are known without a step."""

    step: StepCost
    running: RunningCost | None = None
    """None if it was not asked for."""
    trainable_params: int
    total_params: int
    adapter_bytes: int
    shipped_bytes: Mapping[str, int]
    """`adapter_bytes` by module."""


class ProfileCache:
    """Cost reports by recipe: cases that differ only in their task share a profile."""

    def __init__(self) -> None:
        self._reports: dict[Adaptation, dict[str, CostReport]] = {}

    def get(self, recipe: ModelRecipe) -> Mapping[str, CostReport]:
        """Return the reports by the suffix of their metrics, profiling on first use."""
        if recipe.names not in self._reports:
            self._reports[recipe.names] = profile_both(recipe)
        return self._reports[recipe.names]


def adaptation_cost(names: Adaptation, settings: CostSettings) -> CostReport:
    """Profile one training step of a method on an architecture, both by name.

    Raises `UnknownNameError` for a name that is not registered, `InputError` for a wrong rank.
    """
    return profile_recipe(ModelRecipe.of(names), settings)


def profile_recipe(
    recipe: ModelRecipe, settings: CostSettings, *, running: bool = False
) -> CostReport:
    """Profile one training step on random weights and images; needs no data and no source.

    running: whether also what the adapted model costs to run.
    """
    model = adapted_model(recipe, settings)
    # Before the step: AdaLoRA keeps fake tensors of it, which must not be copied or merged.
    ran = _running_cost(recipe, model, settings) if running else None
    step = profile_step(
        model,
        recipe.make_optimizer,
        input_shape=settings.input_shape,
        num_classes=settings.classes,
        loss=settings.loss,
        dtype=_dtype(recipe),
    )
    shipped = recipe.method.shipped_tensors(model)
    return cost_report(model, step, shipped=shipped, running=ran)


def profile_both(recipe: ModelRecipe) -> dict[str, CostReport]:
    """Return the reports of a step on one image and on 32, by the suffix of their metrics."""
    # A device runs its model on one image.
    return {
        "": profile_recipe(recipe, CostSettings(), running=True),
        BATCH_SUFFIX: profile_recipe(recipe, CostSettings(batch=32)),
    }


def adapted_model(recipe: ModelRecipe, settings: CostSettings) -> nn.Module:
    """Return the model whose step is profiled: on random weights, in its training mode."""
    method = recipe.method
    model = recipe.architecture.build(num_classes=settings.classes, seed=_COST_SEED)
    model = recipe.adapt(cast_base(model, method.base_dtype), seed=_COST_SEED)
    if settings.freeze_head:
        _freeze_head(model, recipe.architecture.head)
    train_statistics = (
        method.trains_batch_norm_statistics if settings.bn is None else settings.bn == "train"
    )
    set_modes(model, batch_norm_statistics=train_statistics)
    return model


def _running_cost(recipe: ModelRecipe, model: nn.Module, settings: CostSettings) -> RunningCost:
    images = torch.zeros(settings.input_shape, dtype=_dtype(recipe))
    return running_cost(model, images, merge=recipe.method.merge)


def _dtype(recipe: ModelRecipe) -> torch.dtype:
    found: torch.dtype = getattr(torch, recipe.method.base_dtype)
    return found


def running_cost(
    model: nn.Module,
    batch: Any,
    *,
    merge: Callable[[nn.Module], nn.Module | None],
    call: Callable[[nn.Module, Any], Any] = call_model,
) -> RunningCost:
    """Profile a forward pass of an adapted model, as it is and merged."""
    try:
        merged = merge(model)
    except Exception:  # noqa: BLE001  (`merge_equals_unmerged` reports what a library raises)
        merged = None
    return RunningCost(
        attached=profile_inference(model, batch, call=call),
        merged=None if merged is None else profile_inference(merged, batch, call=call),
        merged_bytes=0 if merged is None else _bytes_of(merged),
    )


def _bytes_of(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def cost_report(
    model: nn.Module,
    step: StepCost,
    *,
    shipped: Mapping[str, Tensor],
    running: RunningCost | None,
) -> CostReport:
    """Join the cost of a step of an adapted model and the sizes that are known without a step."""
    parameters = list(model.parameters())
    shipped_bytes = _bytes_by_module(model, shipped.values())
    return CostReport(
        step=step,
        running=running,
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        total_params=sum(p.numel() for p in parameters),
        adapter_bytes=sum(shipped_bytes.values()),
        shipped_bytes=shipped_bytes,
    )


def checked_cost(adaptation: Adaptation, settings: CostSettings) -> CostReport:
    """Profile for a user: an error that a library raises for wrong settings is an `InputError`.

    Its message names the settings as options of `peft-regress cost`.
    """
    try:
        return adaptation_cost(adaptation, settings)
    except NothingToTrainError as error:
        if not settings.freeze_head:
            raise
        raise InputError(
            f"{_typed(adaptation)} --freeze-head leaves nothing to train. Leave --freeze-head out, "
            "or choose a method that trains more than the head."
        ) from error
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        chosen = _typed(settings)
        command = " ".join(filter(None, (_typed(adaptation), chosen)))
        said = " ".join(str(error).split()).removesuffix(".")
        remedy = f"Try it without {chosen}, or see" if chosen else "See"
        raise InputError(
            f"{command} cannot be profiled: {type(error).__name__}: {said}. "
            f"{remedy} docs/methods.md for where each method works."
        ) from error


def _typed(chosen: Adaptation | CostSettings) -> str:
    """Return the settings that differ from their defaults, as options of the command."""
    words = []
    for field in fields(chosen):
        value = getattr(chosen, field.name)
        if value != field.default:
            option = f"--{field.name.replace('_', '-')}"
            words.append(option if value is True else f"{option} {value}")
    return " ".join(words)


def cost_metrics(report: CostReport, *, suffix: str = "") -> dict[str, Metric]:
    """Return the metrics of a cost report; one that does not apply is absent."""
    values = {name: getattr(report.step, name) for name in COST_METRICS}
    if not report.step.projection_flops:
        del values["projection_flops"]
    metrics = {name + suffix: make_metric(name + suffix, value) for name, value in values.items()}
    for name in ("trainable_params", "total_params", "adapter_bytes"):
        metrics[name] = make_metric(name, getattr(report, name))
    if report.running is not None:
        metrics.update(_running_metrics(report.running))
    return metrics


def _running_metrics(running: RunningCost) -> dict[str, Metric]:
    values = {
        "inference_flops": running.attached.inference_flops,
        "inference_peak_bytes": running.attached.peak_bytes,
    }
    if running.merged is not None:
        values |= {
            "merged_inference_flops": running.merged.inference_flops,
            "merged_inference_peak_bytes": running.merged.peak_bytes,
            "merged_bytes": running.merged_bytes,
        }
    return {name: make_metric(name, value) for name, value in values.items()}


def step_ledger(reports: Mapping[str, CostReport]) -> Ledger:
    """Return where the costs of steps come from, by the suffix of their metrics."""
    rows: dict[str, Rows] = defaultdict(dict)
    shipped = reports[""].shipped_bytes
    rows["adapter_bytes"] = {(module, "ship"): size for module, size in shipped.items()}
    for suffix, step in ((suffix, report.step) for suffix, report in reports.items()):
        for site in step.flops_by_site:
            place = site.module, site.operator
            rows[f"{site.phase}_flops{suffix}"][place] = site.flops
            if site.phase in {"forward", "backward"}:
                rows[f"paper_{site.phase}_flops{suffix}"][place] = site.paper_flops
        for held in step.bytes_at_highs:
            rows[f"peak_{held.category}_bytes{suffix}"][held.module, held.what] = held.bytes
        for held in step.bytes_at_peak:
            rows["peak_bytes" + suffix][held.module, held.what] = held.bytes
        for held in step.state_bytes:
            rows["optimizer_state_bytes" + suffix][held.module, held.what] = held.bytes
    phases = {"peak_bytes" + suffix: report.step.peak_phase for suffix, report in reports.items()}
    return pack(rows, peak_phase=phases)


def _bytes_by_module(model: nn.Module, tensors: Iterable[Tensor]) -> dict[str, int]:
    """Return the bytes of tensors by module; '' holds tensors that no module has."""
    owners = {
        tensor.untyped_storage().data_ptr(): name
        for module, name in module_names(model).items()
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    found: dict[str, int] = {}
    for tensor in tensors:
        owner = owners.get(tensor.untyped_storage().data_ptr(), "")
        found[owner] = found.get(owner, 0) + tensor.numel() * tensor.element_size()
    return found


def _freeze_head(model: nn.Module, head: str) -> None:
    for name, parameter in model.named_parameters():
        if f".{head}." in f".{name}":
            parameter.requires_grad = False
