"""Where a metric changed over the entries of a history: what its plot and its table mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from peft_regress.baselines.series import jumps_of
from peft_regress.gate.changes import direction_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft_regress.baselines.series import Entry
    from peft_regress.gate.changes import Change
    from peft_regress.metrics import Metric
    from peft_regress.runs.schema import Record

__all__ = ["Transition", "find_transitions"]

What = Literal["worse", "better", "moved", "break"]


class Transition(NamedTuple):
    """One change of one metric.

    `position` and `before` are positions in the records: where it changed, and the last one that it
    can be compared with, None for a break. `change` is relative, of a fraction the difference.
    """

    position: int
    what: What
    before: int | None = None
    change: float | None = None


def find_transitions(records: Sequence[tuple[Entry, Record]], name: str) -> list[Transition]:
    """Return the changes of one metric of one case, its records in the order to be looked at.

    A cost changed where its number is another one; losses, accuracy and times where they moved
    beyond the gate's bound or where another level begins.
    """
    metrics = [record.metrics.get(name) for _, record in records]
    found = []
    for jump in jumps_of(records, metrics, name):
        metric = metrics[jump.position]
        if jump.change is None or metric is None:
            found.append(Transition(jump.position, "break"))
            continue
        judged = not name.startswith("aten_ops") or _same_torch(records, jump.before, jump.position)
        what = _what(jump.change, metric) if judged else "moved"
        found.append(Transition(jump.position, what, jump.before, jump.change.relative))
    return found


def _same_torch(records: Sequence[tuple[Entry, Record]], *positions: int | None) -> bool:
    """Return whether counts of operators can be judged: another torch has other operators."""
    versions = {
        records[position][0].run.environment.get("torch")
        for position in positions
        if position is not None
    }
    return len(versions) == 1


def _what(move: Change, metric: Metric) -> What:
    if metric.direction in {"same", "none"} or metric.kind == "info":
        return "moved"
    return direction_of(move, metric) or "moved"
