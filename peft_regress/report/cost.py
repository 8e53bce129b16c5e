"""The cost of one training step: the report of `peft-regress cost`, and its JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.metrics import format_value
from peft_regress.report.document import Section
from peft_regress.report.table import Row, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.metrics import Metric


def encode_cost(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return `{case, settings, metrics}`."""
    return {
        "case": dataclasses.asdict(adaptation),
        "settings": dataclasses.asdict(settings),
        "metrics": msgspec.to_builtins(dict(metrics)),
    }


def cost_document(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> list[Section]:
    """Return a row for each metric: its name, its value with a unit, its exact value."""
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
    return [Section(title=_title(adaptation, settings), body=(table,), level=2)]


def _title(adaptation: Any, settings: Any) -> str:
    rank = "" if adaptation.rank is None else f" r={adaptation.rank}"
    return (
        f"{adaptation.architecture}, {adaptation.method}{rank}, one training step on "
        f"{settings.batch}x3x{settings.resolution}x{settings.resolution}, "
        f"{settings.classes} classes"
    )
