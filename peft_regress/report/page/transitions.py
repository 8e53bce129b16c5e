"""Where a metric changed over the entries of a history: the marks of its plot and its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from peft_regress.baselines.moves import is_judged
from peft_regress.baselines.series import Entry, jumps_of
from peft_regress.gate.changes import Change, direction_of
from peft_regress.metrics import Metric
from peft_regress.runs.schema import Record

What = Literal["worse", "better", "moved", "break"]


class Transition(NamedTuple):
    """One change of one metric."""

    position: int
    """Of the record in which it changed."""
    what: What
    before: int | None = None
    """The position of the record that it is compared with; None for a break."""
    change: float | None = None
    """Relative; of a fraction, the difference."""


def find_transitions(records: Sequence[tuple[Entry, Record]], name: str) -> list[Transition]:
    """Return the changes of one metric of one case over its records, in their order.

    A cost changes with its number. Losses, accuracy and times change where they leave the gate's
    bound, or where a new level begins.
    """
    metrics = [record.metrics.get(name) for _, record in records]
    found = []
    for jump in jumps_of(records, metrics, name):
        metric = metrics[jump.position]
        if jump.change is None or metric is None:
            found.append(Transition(jump.position, "break"))
            continue
        judged = is_judged(records, name, jump.before, jump.position)
        what = _what(jump.change, metric) if judged else "moved"
        found.append(Transition(jump.position, what, jump.before, _shown(jump.change, metric)))
    return found


def _shown(change: Change, metric: Metric) -> float | None:
    """Return a change as the page shows it; the gate compares scores by their difference."""
    if metric.kind == "score" and metric.unit != "fraction":
        return (change.new - change.old) / abs(change.old) if change.old else None
    return change.relative


def _what(move: Change, metric: Metric) -> What:
    if metric.direction in {"same", "none"} or metric.kind == "info":
        return "moved"
    return direction_of(move, metric) or "moved"
