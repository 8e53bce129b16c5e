"""Profile what one training step costs, and what its adapted model costs to run.

A built-in case, and `peft-regress cost`, on random images; one of the user's on its first batch.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from peft_regress import cost, registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.architectures import Architecture
from peft_regress.catalogue.matrix import method_at
from peft_regress.catalogue.methods.method import Method
from peft_regress.cost.module_trail import module_names
from peft_regress.errors import InputError
from peft_regress.measure.data import Data
from peft_regress.measure.invariants.facts import attempt
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, on_device, single_thread, undisturbed
from peft_regress.metrics import BATCH_SUFFIX, Metric, make_metric
from peft_regress.runs.ledger import Rows, pack
from peft_regress.runs.schema import Ledger

_COST_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """The step whose cost is profiled; the defaults are those of every stored baseline."""

    batch: int = 1
    resolution: int = 224
    classes: int = 10
    loss: cost.Loss = "cross-entropy"
    bn: str | None = None
    freeze_head: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of the images."""
        return (self.batch, 3, self.resolution, self.resolution)


@dataclass(frozen=True, kw_only=True)
class CostReport(cost.TrainingCost):
    """The cost of a step, and the sizes that are known without a step."""

    running: Mapping[str, int]
    """What a forward pass in eval mode costs, by metric; empty if it was not asked for."""
    adapter_bytes: int
    shipped_bytes: Mapping[str, int]
    """`adapter_bytes` by module."""


Reports: TypeAlias = Mapping[str, CostReport]
"""The costs of a case by the suffix of their metrics: '' and, if built in, that of batch 32."""


class ProfileCache:
    """Cost reports by recipe: cases that differ only in their task share a profile."""

    def __init__(self) -> None:
        self._reports: dict[Adaptation, dict[str, CostReport]] = {}

    def get(self, names: Adaptation) -> Reports:
        """Return the reports of a step on one image and on 32, profiling on first use."""
        if names not in self._reports:
            method, architecture = _looked_up(names)
            # A device runs its model on one image.
            self._reports[names] = {
                "": profile_method(method, architecture, CostSettings(), running=True),
                BATCH_SUFFIX: profile_method(method, architecture, CostSettings(batch=32)),
            }
        return self._reports[names]


@single_thread()
@undisturbed()
def costs_of(recipe: Recipe, profiles: ProfileCache) -> Reports:
    """Return the costs of an untrained case. Raises `InputError` for one that takes no step."""
    data = recipe.load_data() if recipe.has_own_step else None
    if data is not None and recipe.is_own:
        recipe = recipe.checked(data)
    return case_costs(recipe, profiles, data)


def case_costs(recipe: Recipe, profiles: ProfileCache, data: Data | None) -> Reports:
    """Return the costs of a case: with data those of its own step, else of the catalogue's."""
    if data is None:
        return profiles.get(recipe.case.adaptation)
    batch = next(recipe.batches(data, seed=recipe.seeds[0]))
    adapted = recipe.adapted_model(recipe.seeds[0])
    recipe.set_mode(adapted)
    batch = on_device(batch, device_of(adapted))
    make, loss = recipe.make_optimizer, recipe.objective.loss
    running = _running_cost(adapted, first_call(recipe, adapted, batch), recipe.adapter)
    found = cost.profile_training_step(adapted, make, batch=batch, loss=loss, fake=None)
    return {"": _cost_report(adapted, found, method=recipe.adapter, running=running)}


class _CallCaughtError(Exception):
    """Ends a loss at its first call of the model."""


def first_call(recipe: Recipe, model: nn.Module, batch: Any) -> cost.Call:
    """Return what the loss calls the model with. Raises `InputError` if it never calls it."""

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _CallCaughtError(args, kwargs)

    hook = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with hook, contextlib.suppress(InputError):
            recipe.objective.loss(model, batch)
    except _CallCaughtError as caught:
        return cost.Call(*caught.args)
    raise InputError(f"FineTune {recipe.case.id!r}: the loss never calls the adapted model itself")


def adaptation_cost(names: Adaptation, settings: CostSettings) -> CostReport:
    """Profile one training step of a method on an architecture, both by name.

    Raises `UnknownNameError` for a name that is not registered, `InputError` for a wrong rank, and
    for settings with which a library raises.
    """
    method, architecture = _looked_up(names)
    try:
        return profile_method(method, architecture, settings)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split()).removesuffix(".")
        raise InputError(
            f"{names.method} on {names.architecture} cannot be profiled with these settings: "
            f"{type(error).__name__}: {said}. See docs/methods.md for where each method works"
        ) from error


def _looked_up(names: Adaptation) -> tuple[Method, Architecture]:
    architecture: Architecture = registry.get("architecture", names.architecture)
    return method_at(names.method, names.rank, heads=(architecture.head,)), architecture


def profile_method(
    method: Method, architecture: Architecture, settings: CostSettings, *, running: bool = False
) -> CostReport:
    """Profile one training step on random weights and images; needs no data and no source.

    method: at a rank, with its heads. running: whether also what the adapted model costs to run.
    """
    model = adapted_model(method, architecture, settings)
    dtype = method.dtype or torch.float32
    shape, make = settings.input_shape, method.make_optimizer
    ran = _running_cost(model, torch.zeros(shape, dtype=dtype), method) if running else {}
    of_classes: dict[str, Any] = {"num_classes": settings.classes, "loss": settings.loss}
    step = cost.profile_step(model, make, input_shape=shape, dtype=dtype, **of_classes)
    return _cost_report(model, step, method=method, running=ran)


def adapted_model(method: Method, architecture: Architecture, settings: CostSettings) -> nn.Module:
    """Return the model whose step is profiled: on random weights, in its training mode."""
    model = architecture.build(num_classes=settings.classes, seed=_COST_SEED)
    model = method.adapt(model.to(getattr(torch, method.base_dtype)), seed=_COST_SEED)
    if settings.freeze_head:
        for name, parameter in model.named_parameters():
            if f".{architecture.head}." in f".{name}":
                parameter.requires_grad = False
    if settings.bn is not None:
        method = replace(method, trains_batch_norm_statistics=settings.bn == "train")
    method.set_mode(model)
    return model


def _running_cost(model: nn.Module, batch: Any, method: Method) -> dict[str, int]:
    merged = attempt(lambda: method.merge(model))  # `merge_equals_unmerged` says why it cannot be
    found: dict[str, int] = {}
    for prefix, one in (("", model), ("merged_", merged)):
        if one is not None:
            ran = cost.profile_inference(one, batch)
            found[f"{prefix}inference_flops"] = ran.inference_flops
            found[f"{prefix}inference_peak_bytes"] = ran.peak_bytes
    if merged is not None:
        tensors = (*merged.parameters(), *merged.buffers())
        found["merged_bytes"] = sum(t.numel() * t.element_size() for t in tensors)
    return found


def _cost_report(
    model: nn.Module, step: cost.StepCost, *, method: Method, running: Mapping[str, int]
) -> CostReport:
    parameters = list(model.parameters())
    shipped_bytes = _bytes_by_module(model, method.shipped_tensors(model).values())
    return CostReport(
        step=step,
        running=running,
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        total_params=sum(p.numel() for p in parameters),
        adapter_bytes=sum(shipped_bytes.values()),
        shipped_bytes=shipped_bytes,
    )


def _bytes_by_module(model: nn.Module, tensors: Iterable[Tensor]) -> dict[str, int]:
    """Return the bytes of tensors by module; '' holds tensors that no module has."""
    owners: dict[int, str] = {}
    for module, name in module_names(model).items():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners[tensor.untyped_storage().data_ptr()] = name
    found: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        owner = owners.get(tensor.untyped_storage().data_ptr(), "")
        found[owner] += tensor.numel() * tensor.element_size()
    return found


def metrics_of(reports: Reports) -> dict[str, Metric]:
    """Return the metrics of all reports; one that does not apply is absent."""
    values: dict[str, int] = {}
    for suffix, report in reports.items():
        values |= {name + suffix: value for name, value in report.step.metrics.items()}
        for name in ("trainable_params", "total_params", "adapter_bytes"):
            values[name] = getattr(report, name)
        values |= report.running
    return {name: make_metric(name, value) for name, value in values.items()}


def step_ledger(reports: Reports) -> Ledger:
    """Return where the costs of steps come from."""
    rows: dict[str, Rows] = defaultdict(dict)
    shipped = reports[""].shipped_bytes
    rows["adapter_bytes"] = {(module, "ship"): size for module, size in shipped.items()}
    for suffix, report in reports.items():
        step = report.step
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
