"""Bencher Metric Format: {benchmark: {measure: {value, lower_value?, upper_value?}}}.

https://bencher.dev/docs/reference/bencher-metric-format/. The name of a measure is its slug.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import InputError
from peft_regress.report.export.exporter import Exporter, register
from peft_regress.report.export.narrowing import add_once, seed_values
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Run

_LONGEST_MEASURE: Final = 64


def bencher_json(run: Run) -> str:
    """Return each case with metrics as a benchmark, unscaled, with its lowest and highest seed.

    Raises `InputError` for names that Bencher refuses, or that it would mistake for each other.
    """
    benchmarks: dict[str, Any] = {}
    for case, record in run.cases.items():
        if record.metrics:
            add_once(benchmarks, case, _measures(record.metrics), tool="Bencher")
    return json.dumps(benchmarks, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _measures(metrics: dict[str, Metric]) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for name, metric in metrics.items():
        add_once(measures, _slug(name), _values(metric), tool="Bencher")
    return measures


def _slug(name: str) -> str:
    """Return a name in lower case with single hyphens: forward_flops_b32 -> forward-flops-b32."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not 0 < len(slug) <= _LONGEST_MEASURE:
        msg = f"metric {clean(name)!r}: Bencher takes slugs of 1 to {_LONGEST_MEASURE} characters"
        raise InputError(msg)
    return slug


def _values(metric: Metric) -> dict[str, float]:
    values: dict[str, float] = {"value": metric.value}
    seeds = seed_values(metric)
    if seeds:
        # Rounding may put the mean of equal numbers beside them.
        values["lower_value"] = min(metric.value, *seeds)
        values["upper_value"] = max(metric.value, *seeds)
    return values


BENCHER: Final = register(
    Exporter(name="bencher", write=lambda run: {"": bencher_json(run)}, numbers_only=True)
)
