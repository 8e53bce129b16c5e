"""The JSON that github-action-benchmark takes as a custom tool's output.

https://github.com/benchmark-action/github-action-benchmark: an array of {name, unit, value, range?,
extra?}. A file is of one direction, which the input `tool` names, and an empty one is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from peft_regress.report.export.narrowing import add_once, seed_values
from peft_regress.text import printable

if TYPE_CHECKING:
    from peft_regress.metrics import Direction, Metric
    from peft_regress.runs.schema import Run

__all__ = ["DIRECTIONS", "directed_metrics", "github_action_benchmark_json"]

DIRECTIONS: Final[dict[str, tuple[Direction, str]]] = {
    "smaller": ("lower", "customSmallerIsBetter"),
    "bigger": ("higher", "customBiggerIsBetter"),
}
"""By name of a file's direction: which metrics it has, and the tool's `tool`."""


def directed_metrics(run: Run, direction: Direction) -> list[str]:
    """Return the names of the metrics that have a direction, in the order of the run."""
    return list(
        dict.fromkeys(
            name
            for record in run
            for name, metric in record.metrics.items()
            if metric.direction == direction
        )
    )


def github_action_benchmark_json(run: Run, direction: Direction) -> str:
    """Return the entries of one direction, values unscaled; '[]' where there are none.

    Raises `InputError` where two entries would have one name.
    """
    entries: dict[str, Any] = {}
    for case, record in run.cases.items():
        for name, metric in record.metrics.items():
            if metric.direction == direction:
                title = _in_code_span(f"{case} {name}")
                entry = _entry(title, metric)
                add_once(entries, title, entry, tool="github-action-benchmark")
    return json.dumps(list(entries.values()), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(title: str, metric: Metric) -> dict[str, Any]:
    entry = {"name": title, "unit": metric.unit, "value": metric.value}
    seeds = seed_values(metric)
    if seeds:
        # The tool reads a number after the sign, and nothing else.
        entry["range"] = f"± {max(abs(seed - metric.value) for seed in seeds)!r}"
        entry["extra"] = f"{len(seeds)} seeds: " + ", ".join(map(repr, seeds))
    return entry


def _in_code_span(text: str) -> str:
    """Return a name that stays in its cell: the tool's comments set it between backticks."""
    return printable(text).replace("`", "'").replace("|", "/")
