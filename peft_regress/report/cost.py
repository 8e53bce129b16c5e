"""The cost of one training step: the report of `peft-regress cost`, and its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from peft_regress.metrics import Metric, format_value
from peft_regress.report.document import Line, Section
from peft_regress.report.table import Row, Table
from peft_regress.text import clean

_LONGEST_PROBLEM: Final = 400


def encode_cost(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return `{case, settings, metrics}`."""
    return {
        "case": dataclasses.asdict(adaptation),
        "settings": dataclasses.asdict(settings),
        "metrics": msgspec.to_builtins(dict(metrics)),
    }


def cost_document(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> list[Section]:
    """Return a row for each metric: its name, its value with a unit, its exact value."""
    rank = "" if adaptation.rank is None else f" r={adaptation.rank}"
    title = (
        f"{adaptation.architecture}, {adaptation.method}{rank}, one training step on "
        f"{settings.batch}x3x{settings.resolution}x{settings.resolution}, "
        f"{settings.classes} classes"
    )
    return [_section(title, metrics)]


def encode_model_cost(
    model: str, inputs: Sequence[str], loss: str | None, cost: Any
) -> dict[str, Any]:
    """Return `{model, settings, metrics}` of a model by its import path; `cost` is its price."""
    return {
        "model": model,
        "settings": {"inputs": list(inputs), "loss": loss, "tensors": cost.step.tensors},
        "metrics": msgspec.to_builtins(cost.metrics),
    }


def model_cost_document(model: str, inputs: Sequence[str], cost: Any) -> list[Section]:
    """Return the rows of `cost_document` for a model by its import path."""
    on = " and ".join(inputs) or "no input"
    return [_section(f"{model}, one training step on {on} ({cost.step.tensors})", cost.metrics)]


def encode_case_cost(case_id: str, costs: Any) -> dict[str, Any]:
    """Return `{id, tensors, metrics}` of a case's own step, and `error` if it has no programs."""
    metrics = msgspec.to_builtins(costs.metrics)
    encoded = {"id": case_id, "tensors": costs.profiled_on, "metrics": metrics}
    problem = getattr(costs, "problem", None)  # only with a runtime
    if problem is not None:
        encoded["error"] = {"type": type(problem).__name__, "message": str(problem)}
    return encoded


def case_cost_section(case_id: str, costs: Any) -> Section:
    """Return the rows of `cost_document` for a case's own step, and why it has no programs."""
    title = f"{case_id}, one training step of its own ({costs.profiled_on})"
    section = _section(title, costs.metrics)
    problem = getattr(costs, "problem", None)
    if problem is None:
        return section
    said = Line(clean(f"no program for ExecuTorch: {problem}", longest=_LONGEST_PROBLEM))
    return dataclasses.replace(section, body=(*section.body, said))


def _section(title: str, metrics: Mapping[str, Metric]) -> Section:
    rows = tuple(
        Row(
            cells=(
                name,
                format_value(metric.value, metric.unit),
                "" if metric.unit == "count" else f"{metric.value:,d}",
            )
        )
        for name, metric in metrics.items()
    )
    table = Table(headings=("metric", "value", "exact"), rows=rows, numbers=(1, 2))
    return Section(title=title, body=(table,), level=2)
