"""What an explanation names in one line: changes in the same layers, and metrics of one side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from peft_regress.gate.attribution import MetricChange
from peft_regress.gate.verdicts import Observation
from peft_regress.metrics import BATCH_SUFFIX, format_change, format_value
from peft_regress.report.document import Code, Section
from peft_regress.text import clean

_PAPER: Final = "paper_"
_ONLY_NEW: Final = "new"
_ONLY_OLD: Final = "old"


def find_besides(changes: Sequence[MetricChange]) -> dict[str, str]:
    """Return the metrics to name only, each with why: `new`, `old`, or the metric it is like.

    A metric is like an earlier one if it is the same cost at another batch or of the paper's
    counter, and the same layers changed, as far as ledgers split it.
    """
    found: dict[str, str] = {}
    shown: dict[str, list[MetricChange]] = {}
    for change in changes:
        name = change.metric
        if None in (change.old, change.new) and not has_rows(change):
            found[name] = _ONLY_NEW if change.old is None else _ONLY_OLD
            continue
        alike = shown.setdefault(name.removesuffix(BATCH_SUFFIX).removeprefix(_PAPER), [])
        like = next((other for other in alike if _layers(other) == _layers(change)), None)
        if like is None:
            alike.append(change)
        else:
            found[name] = like.metric
    return found


def besides_section(
    changes: Sequence[MetricChange],
    besides: Mapping[str, str],
    old: Observation,
    new: Observation,
) -> Iterator[Section]:
    """Name these metrics with how far they changed."""
    by_reason: dict[str, list[MetricChange]] = {}
    for change in changes:
        if change.metric in besides:
            by_reason.setdefault(besides[change.metric], []).append(change)
    sides = {_ONLY_NEW: new, _ONLY_OLD: old}
    lines = []
    for why, found in by_reason.items():
        of_one_side = sides.get(why)
        title = f"like {why}" if of_one_side is None else f"only in {clean(of_one_side.run_name)}"
        lines.append(f"{title}: {', '.join(map(_shown, found))}")
    if lines:
        yield Section(title=("besides, in full by", Code("--metric NAME")), body=tuple(lines))


def has_rows(change: MetricChange) -> bool:
    """Return whether a ledger splits the change."""
    return any(split.rows or any(split.unattributed) for split in change.breakdowns)


def _layers(change: MetricChange) -> list[frozenset[tuple[str, str, int | None]]]:
    """Return which layers changed, and by how many runs of their base operator."""
    return [
        frozenset((layer.layer, layer.what, layer.base_runs) for layer in split.layers)
        for split in change.breakdowns
    ]


def _shown(change: MetricChange) -> str:
    if change.relative_change is not None and change.new is not None:
        return f"{change.metric} {format_change(change.relative_change)}"
    value = change.old if change.new is None else change.new
    return f"{change.metric} {format_value(value or 0, change.unit)}"
