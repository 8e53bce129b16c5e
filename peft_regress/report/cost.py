"""The cost of one training step, as `peft-regress cost` prints it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.metrics import format_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.metrics import Metric

__all__ = ["cost_markdown", "cost_text", "encode_cost"]


def encode_cost(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return `{case, settings, metrics}`."""
    return {
        "case": dataclasses.asdict(adaptation),
        "settings": dataclasses.asdict(settings),
        "metrics": msgspec.to_builtins(dict(metrics)),
    }


def cost_text(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> str:
    """Return a line a metric: name, shown value, exact value."""
    lines = [_title(adaptation, settings)]
    for name, metric in metrics.items():
        exact = "" if metric.unit == "count" else f"{metric.value:>16,d}"
        lines.append(f"  {name:<24} {format_value(metric.value, metric.unit):>16} {exact}".rstrip())
    return "\n".join(lines)


def cost_markdown(adaptation: Any, settings: Any, metrics: Mapping[str, Metric]) -> str:
    """Return the same as a Markdown table."""
    lines = [f"**{_title(adaptation, settings)}**", "", "| metric | shown | exact |"]
    lines.append("| --- | ---: | ---: |")
    lines += [
        f"| {name} | {format_value(metric.value, metric.unit)} | {metric.value} |"
        for name, metric in metrics.items()
    ]
    return "\n".join(lines)


def _title(adaptation: Any, settings: Any) -> str:
    rank = "" if adaptation.rank is None else f" r={adaptation.rank}"
    return (
        f"{adaptation.architecture}, {adaptation.method}{rank}, one training step on "
        f"{settings.batch}x3x{settings.resolution}x{settings.resolution}, "
        f"{settings.classes} classes"
    )
