"""Bencher Metric Format: {benchmark: {measure: {value, lower_value?, upper_value?}}}.

https://bencher.dev/docs/reference/bencher-metric-format/. A measure is named by its slug; names
and slugs have the lengths that Bencher takes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from peft_regress.errors import InputError
from peft_regress.report.export.narrowing import add_once, seed_values
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Run

__all__ = ["bencher_json"]

_LONGEST_BENCHMARK: Final = 1024
"""In bytes, as Bencher counts."""

_LONGEST_MEASURE: Final = 64


def bencher_json(run: Run) -> str:
    """Return each case that has metrics as a benchmark, values unscaled; the bounds are the seeds'.

    Raises `InputError` for names that Bencher does not take or would take for one another.
    """
    benchmarks: dict[str, Any] = {}
    for case, record in run.cases.items():
        if record.metrics:
            name = printable(case)
            if len(name.encode()) > _LONGEST_BENCHMARK:
                msg = f"Bencher takes names of {_LONGEST_BENCHMARK} bytes, not case {clean(case)!r}"
                raise InputError(msg)
            add_once(benchmarks, name, _measures(record.metrics), tool="Bencher")
    return json.dumps(benchmarks, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _measures(metrics: dict[str, Metric]) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for name, metric in metrics.items():
        add_once(measures, _slug(name), _values(metric), tool="Bencher")
    return measures


def _slug(name: str) -> str:
    """Return a metric's name in lower case with single hyphens: forward_flops_b32 -> -flops-b32."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not 0 < len(slug) <= _LONGEST_MEASURE:
        msg = (
            f"Bencher takes slugs of 1 to {_LONGEST_MEASURE} characters, not metric {clean(name)!r}"
        )
        raise InputError(msg)
    return slug


def _values(metric: Metric) -> dict[str, float]:
    values: dict[str, float] = {"value": metric.value}
    seeds = seed_values(metric)
    if seeds:
        # The mean of equal numbers may be a rounding error beyond them.
        values["lower_value"] = min(metric.value, *seeds)
        values["upper_value"] = max(metric.value, *seeds)
    return values
