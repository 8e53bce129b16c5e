"""The JSON that github-action-benchmark takes as a custom tool's output.

https://github.com/benchmark-action/github-action-benchmark: an array of {name, unit, value, range?,
extra?}. A file has one direction, which the action's input `tool` names; empty files are refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from peft_regress.report.export.exporter import Exporter, register
from peft_regress.report.export.narrowing import add_once, seed_values
from peft_regress.text import printable

if TYPE_CHECKING:
    from peft_regress.metrics import Direction, Metric
    from peft_regress.runs.schema import Run

_DIRECTIONS: Final[dict[str, Direction]] = {"smaller": "lower", "bigger": "higher"}


def _directed(run: Run, *directions: Direction) -> list[str]:
    """Return the names of the metrics with one of these directions, in the order of the run."""
    return list(
        dict.fromkeys(
            name
            for record in run
            for name, metric in record.metrics.items()
            if metric.direction in directions
        )
    )


def github_action_benchmark_json(run: Run, direction: Direction) -> str:
    """Return the entries of one direction, unscaled; '[]' if there are none.

    Raises `InputError` if two entries would have the same name.
    """
    entries: dict[str, Any] = {}
    for case, record in run.cases.items():
        for name, metric in record.metrics.items():
            if metric.direction == direction:
                title = _in_code_span(f"{case} {name}")
                entry = _entry(title, metric)
                add_once(entries, title, entry, tool="github-action-benchmark")
    text = json.dumps(list(entries.values()), indent=2, ensure_ascii=False, allow_nan=False)
    # The same string, which GitHub's runner does not take for a command in its log.
    return text.replace("##[", r"\u0023#[") + "\n"


def _entry(title: str, metric: Metric) -> dict[str, Any]:
    entry = {"name": title, "unit": metric.unit, "value": metric.value}
    seeds = seed_values(metric)
    if seeds:
        # The tool reads only a number after the sign.
        entry["range"] = f"± {max(abs(seed - metric.value) for seed in seeds)!r}"
        entry["extra"] = f"{len(seeds)} seeds: " + ", ".join(map(repr, seeds))
    return entry


def _in_code_span(text: str) -> str:
    """Return a name that stays in its cell: the tool's comments put it between backticks."""
    return printable(text).replace("`", "'").replace("|", "/")


def _write(run: Run) -> dict[str, str]:
    return {
        name: github_action_benchmark_json(run, direction)
        for name, direction in _DIRECTIONS.items()
        if _directed(run, direction)
    }


GITHUB_ACTION_BENCHMARK: Final = register(
    Exporter(
        name="github-action-benchmark",
        write=_write,
        files={"smaller": "customSmallerIsBetter.json", "bigger": "customBiggerIsBetter.json"},
        numbers_only=True,
        omitted_metrics=lambda run: _directed(run, "same", "none"),
    )
)
