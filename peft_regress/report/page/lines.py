"""The metrics of one case over the entries of a history, in brief: a value holds until the next."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from peft_regress.baselines.history_changes import is_judged
from peft_regress.baselines.lines import Entry, jumps_of
from peft_regress.gate.changes import direction_of, value_of
from peft_regress.gate.verdicts import Change
from peft_regress.metrics import Metric
from peft_regress.runs.schema import Record

_DIGITS: Final = 7

What = Literal["worse", "better", "moved", "break"]
Records = Mapping[int, Record]
"""The records of one case by the index of their entry, the oldest entry first."""


class Mark(NamedTuple):
    """Where a metric changed."""

    entry: int
    """The index of the entry."""
    what: What
    """`break`: the definition changed, so nothing before can be compared."""
    before: int | None = None
    """The entry that it is compared with; None for a break."""
    change: float | None = None
    """Relative; of a fraction and a score the difference. None from zero."""

    @property
    def size(self) -> float:
        """How far it is: half as much is as far as twice as much."""
        if self.change is None or self.change <= -1:
            return math.inf
        return abs(math.log1p(self.change))


class Held(NamedTuple):
    """Values by entry: `values[k]` holds from entry `at[k]` until `at[k + 1]`; None is absent."""

    at: list[int]
    values: list[Any]

    def at_entry(self, entry: int) -> Any:
        """Return the value at an entry; None if it is absent."""
        position = bisect_right(self.at, entry) - 1
        return None if position < 0 else self.values[position]


class CaseLines(NamedTuple):
    """The metrics of one case: their values over the entries, and their changes in each order."""

    held: Mapping[str, Held]
    marks: Mapping[str, Mapping[str, Sequence[Mark]]]
    """By order and metric."""


def lines_of_case(
    records: Records,
    entries: Sequence[Entry],
    *,
    names: Iterable[str],
    orders: Mapping[str, Sequence[int]],
) -> CaseLines:
    """Return the lines of all metrics of a case."""
    columns = {}
    for name in names:
        column = [record.metrics.get(name) for record in records.values()]
        if any(metric is not None for metric in column):
            columns[name] = column
    # A metric that is the same in every entry changed nowhere, in any order.
    defined_once = len({record.definition for record in records.values()}) == 1
    moved = [name for name, column in columns.items() if not (defined_once and _is_still(column))]
    marks = {}
    for by, order in orders.items():
        chosen = [(index, entries[index], records[index]) for index in order if index in records]
        found = {name: find_marks(chosen, name) for name in moved}
        marks[by] = {name: some for name, some in found.items() if some}
    indices, last = list(records), len(entries) - 1
    held = {
        name: hold(indices, [_rounded(metric) for metric in column], last)
        for name, column in columns.items()
    }
    return CaseLines(held=held, marks=marks)


def find_marks(chosen: Sequence[tuple[int, Entry, Record]], name: str) -> list[Mark]:
    """Return the changes of one metric of a case over its records, in their order.

    A cost changes with its number. Losses, accuracy and times change where they leave the gate's
    bound, or where a new level begins.
    """
    records = [(entry, record) for _, entry, record in chosen]
    metrics = [record.metrics.get(name) for _, record in records]
    found = []
    for jump in jumps_of(records, metrics, name):
        entry, metric = chosen[jump.position][0], metrics[jump.position]
        if jump.change is None or jump.before is None or metric is None:
            found.append(Mark(entry, "break"))
            continue
        judged = is_judged(records, name, jump.before, jump.position)
        what = _what(jump.change, metric) if judged else "moved"
        found.append(Mark(entry, what, chosen[jump.before][0], jump.change.relative))
    return found


def _what(move: Change, metric: Metric) -> What:
    if metric.direction in {"same", "none"} or metric.kind == "info":
        return "moved"
    return direction_of(move, metric) or "moved"


def _is_still(column: Sequence[Metric | None]) -> bool:
    """Return whether a metric is the same object throughout: equal ones are read as one."""
    return len(set(map(id, column))) == 1


def hold(indices: Sequence[int], values: Sequence[Any], last: int) -> Held:
    """Return runs of equal values; an entry without the value ends a run."""
    found = Held([], [])
    following = 0
    for index, value in [*zip(indices, values, strict=True), (last + 1, None)]:
        if index > following and found.values and found.values[-1] is not None:
            found.at.append(following)
            found.values.append(None)
        before = found.values[-1] if found.values else None
        is_new = not found.values or value != before or type(value) is not type(before)
        if is_new and index <= last:
            found.at.append(index)
            found.values.append(value)
        following = index + 1
    return found


def _rounded(metric: Metric | None) -> float | None:
    """Return whole numbers unchanged, others with as many digits as a page shows."""
    if metric is None:
        return None
    value = value_of(metric)
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
