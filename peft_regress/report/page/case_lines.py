"""One case over the entries of a history, in brief: a value holds until the next one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from peft_regress.baselines.lines import Entry, jumps_of
from peft_regress.baselines.moves import is_judged
from peft_regress.gate.changes import direction_of, value_of
from peft_regress.gate.verdicts import Change
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


_DIGITS: Final = 7
_MOST_CHARACTERS: Final = 2000

Records = dict[int, "Record"]
"""The records of one case by the index of their entry, the oldest entry first."""


class Held(NamedTuple):
    """Values by entry: `values[k]` holds from entry `at[k]` until `at[k + 1]`; None is absent."""

    at: list[int]
    values: list[Any]

    def position(self, entry: int) -> int:
        """Return the index of the value that holds at an entry; -1 before the first."""
        return bisect_right(self.at, entry) - 1

    def at_entry(self, entry: int) -> Any:
        """Return the value at an entry; None if it is absent."""
        position = self.position(entry)
        return None if position < 0 else self.values[position]


class CaseLines(NamedTuple):
    """The metrics of one case: their values over the entries, and their changes in each order."""

    held: dict[str, Held]
    transitions: dict[str, dict[str, list[Transition]]]
    """By order and metric. Positions are indices of entries."""

    thinned_names: frozenset[str] = frozenset()
    """The metrics with values left out."""

    def all_transitions(self) -> Iterator[list[Transition]]:
        """Return the changes of each line in each order."""
        for found in self.transitions.values():
            yield from found.values()

    def with_newest_transitions(self, most: int | None) -> CaseLines:
        """Return the same with at most the newest `most` changes of each line."""
        if most is None:
            return self
        newest = {
            by: {name: changes[-most:] for name, changes in found.items()}
            for by, found in self.transitions.items()
        }
        return self._replace(transitions=newest)

    def thinned(
        self, most: int | None, orders: Mapping[str, Sequence[int]], *, present: int
    ) -> CaseLines:
        """Return the same with about `most` values of each line, and all that its changes need."""
        if most is None:
            return self
        long = {name: line for name, line in self.held.items() if len(line.at) > most}
        held = {
            name: thin(line, keep=self._needed(name, line, orders, present=present), most=most)
            for name, line in long.items()
        }
        return self._replace(held={**self.held, **held}, thinned_names=frozenset(held))

    def _needed(
        self, name: str, line: Held, orders: Mapping[str, Sequence[int]], *, present: int
    ) -> set[int]:
        """Return the entries that a line must keep: of its present value, its changes, their bases.

        Bases are the entry that a change was compared with, and the last one with a value.
        """
        every = {present}
        for by, order in orders.items():
            found = self.transitions[by].get(name, ())
            shown = {present, *(one.position for one in found)}
            every |= shown | {one.before for one in found if one.before is not None}
            for index in shown:
                earlier = reversed(order[: order.index(index)])
                every.add(next((one for one in earlier if line.at_entry(one) is not None), index))
        return every


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
    by_order: dict[tuple[int, ...], dict[str, list[Transition]]] = {}
    transitions = {}
    for by, order in orders.items():
        ordered = tuple(index for index in order if index in records)
        if ordered not in by_order:
            by_order[ordered] = {
                name: found
                for name in moved
                if (found := _transitions(name, ordered, records, entries))
            }
        transitions[by] = by_order[ordered]
    indices, last = list(records), len(entries) - 1
    held = {name: _hold(column, indices, last=last) for name, column in columns.items()}
    return CaseLines(held=held, transitions=transitions)


def status_of_case(records: Records, *, present: int, last: int) -> Held:
    """Return the states of a case; the present one includes its error."""
    states = [
        clip(record.status_text) if index == present else record.status
        for index, record in records.items()
    ]
    return _run_lengths(list(records), states, last)


def clip(text: str) -> str:
    """Return the beginning of a text, as much as a page shows of any."""
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


def _is_still(column: Sequence[Metric | None]) -> bool:
    """Return whether a metric is the same object throughout: equal ones are read as one."""
    return len(set(map(id, column))) == 1


def _transitions(
    name: str, order: Sequence[int], records: Records, entries: Sequence[Entry]
) -> list[Transition]:
    """Return the changes in one order of the entries; positions are indices of entries."""
    chosen = [(entries[index], records[index]) for index in order]
    return [
        one._replace(
            position=order[one.position],
            before=None if one.before is None else order[one.before],
        )
        for one in find_transitions(chosen, name)
    ]


def _hold(column: Sequence[Metric | None], indices: Sequence[int], *, last: int) -> Held:
    values: list[Any] = []
    before: Metric | None = None
    shown: Any = None
    for metric in column:
        if metric is not before:
            before, shown = metric, None if metric is None else _rounded(value_of(metric))
        values.append(shown)
    return _run_lengths(indices, values, last)


def _run_lengths(indices: Sequence[int], values: Sequence[Any], last: int) -> Held:
    """Return runs of equal values; an entry without the value ends a run."""
    at: list[int] = []
    held: list[Any] = []
    following = 0
    for index, value in zip(indices, values, strict=True):
        if index > following and held and held[-1] is not None:
            at.append(following)
            held.append(None)
        if not held or value != held[-1] or type(value) is not type(held[-1]):
            at.append(index)
            held.append(value)
        following = index + 1
    if following <= last and held and held[-1] is not None:
        at.append(following)
        held.append(None)
    return Held(at, held)


def _rounded(value: float) -> float:
    """Return whole numbers unchanged, others with as many digits as a page shows."""
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def thin(line: Held, *, keep: Collection[int], most: int) -> Held:
    """Return a line with `most` of its values, evenly chosen, and those at the entries `keep`.

    The first value, the last value and the gaps always stay.
    """
    count = len(line.at)
    if count <= most:
        return line
    chosen = {round(step * (count - 1) / (most - 1)) for step in range(most)}
    chosen |= {line.position(entry) for entry in keep}
    kept = [k for k in range(count) if k in chosen or line.values[k] is None]
    return Held([line.at[k] for k in kept], [line.values[k] for k in kept])
