"""What moved in a history beyond its bound: the report of `peft-regress history`, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peft_regress.baselines.history import Moves
from peft_regress.baselines.history_changes import Move
from peft_regress.baselines.lines import Entry
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.report.document import Code, Line, Section, Words, case_set
from peft_regress.report.sentences import environment_lines, shown_change, shown_value
from peft_regress.report.table import Row, Table
from peft_regress.report.verdict.next_steps import quoted
from peft_regress.runs.environment import changed_packages
from peft_regress.text import clean, count_of

_MOST_PACKAGES: Final = 4
_MOST_NAME_LINES: Final = 2
_MOST_METRIC_LINES: Final = 3
_DAY: Final = len("2026-01-01")


def moves_document(moves: Moves) -> list[Section]:
    """Return all moves: a section for each entry, a table for metrics that moved together."""
    steps = find_steps(moves)
    return [
        _summary(moves),
        *(Section(title=_heading(step), body=tuple(_tables(step)), level=2) for step in steps),
    ]


def overview_document(moves: Moves, command: str) -> list[Section]:
    """Return the most telling moves, and what is left out. It fits on a screen or two.

    `command` is what was typed; the last line tells which options show the rest.
    """
    shown = most_telling(find_steps(moves))
    sections = [
        Section(title=_heading(step, most=_MOST_PACKAGES), body=tuple(_headlines(step)), level=2)
        for step in shown
    ]
    named = sum(
        len(metric) for step in shown for _, found in telling_groups(step) for metric in found
    )
    return [_summary(moves), *sections, _closing(moves, named, command)]


def encode_moves(moves: Moves) -> dict[str, Any]:
    """Return `{moves: [{case, metric, before, entry, old, new, ...}], redefined}`."""
    return {
        "moves": [
            {
                "case": move.case,
                "metric": move.metric,
                "unit": None if move.spec is None else move.spec.unit,
                "before": move.before.name,
                "entry": move.entry.name,
                "old": move.old,
                "new": move.new,
                "relative_change": _finite(move.change),
                "way": move.way,
                "packages": [
                    {"package": name, "old": old, "new": new}
                    for name, (old, new) in _packages(move.before, move.entry).items()
                ],
            }
            for move in moves.found
        ],
        "redefined": [{"case": one.case, "entry": one.entry.name} for one in moves.redefined],
    }


def _finite(change: float | None) -> float | None:
    return change if change is not None and math.isfinite(change) else None


def _packages(before: Entry, entry: Entry) -> dict[str, tuple[str | None, str | None]]:
    return changed_packages(before.run.environment, entry.run.environment)


def _summary(moves: Moves) -> Section:
    entries = moves.entries
    ends = [f"{clean(one.name)} ({clean(one.date[:_DAY])})" for one in (entries[0], entries[-1])]
    cases = len({move.case for move in moves.found})
    moved = f"{cases} of {count_of(len(moves.cases), 'case')} moved beyond a bound"
    last = f", last in {clean(_last(moves).name)}" if moves.found else ""
    counted = count_of(len(entries), "entry", "entries")
    return Section(title=f"{counted}, {' to '.join(dict.fromkeys(ends))}", body=(moved + last,))


def _last(moves: Moves) -> Entry:
    order = {id(entry): place for place, entry in enumerate(moves.entries)}
    return max((move.entry for move in moves.found), key=lambda entry: order[id(entry)])


def _heading(step: Step, *, most: int | None = None) -> str:
    name = f"{clean(step.entry.name)} ({clean(step.entry.date[:_DAY])})"
    if step.before is None:
        return name
    packages = environment_lines(step.before.run.environment, step.entry.run.environment)
    left = packages[most:] if most is not None else []
    more = [f"{len(left)} more"] if left else []
    changed = "; ".join([*packages[:most], *more]) or "no package changed"
    return f"{name}, compared with {clean(step.before.name)}: {changed}"


def _headlines(step: Step) -> Iterator[str | Line]:
    """Yield what moved most in a step, and in which cases."""
    yield from _anew(step)
    telling = telling_groups(step)
    for group, shown in telling:
        moved = ", ".join(map(_range, shown))
        yield Line(f"{_counted(group)}: {moved}", _MOST_METRIC_LINES)
        yield from _in(group.cases)
    named = {metric[0].metric for _, shown in telling for metric in shown}
    left = {metric[0].metric for group in step.groups for metric in group.by_metric} - named
    if left:
        yield f"and {count_of(len(left), 'more metric')}"


def _anew(step: Step) -> Iterator[str | Line]:
    if step.redefined:
        count = count_of(len(step.redefined), "case")
        yield f"defines {count} anew: nothing before can be compared"
        yield Line(f"  {case_set(step.redefined)}", _MOST_NAME_LINES)


def _in(cases: Sequence[str]) -> Iterator[Line]:
    if len(cases) > 1:
        yield Line(f"  in {case_set(cases)}", _MOST_NAME_LINES)


def _counted(group: Group) -> str:
    cases = group.cases
    return f"{group.first.way} in {clean(cases[0]) if len(cases) == 1 else f'{len(cases)} cases'}"


def _range(metric: Sequence[Move]) -> str:
    """Return how far a metric moved in all its cases."""
    most, least = metric[0], metric[-1]
    if most.change is None and len({(move.old, move.new) for move in metric}) == 1:
        none = "absent" if most.spec else "unchecked"
        old, new = (
            none if value is None else shown_value(value, most.spec)
            for value in (most.old, most.new)
        )
        return f"{clean(most.metric)} {old} -> {new}"
    return f"{clean(most.metric)} {' to '.join(dict.fromkeys(map(_change, (least, most))))}"


def _tables(step: Step) -> Iterator[Words | Table]:
    """Yield all that moved in a step: the cases, and a row for each metric."""
    for line in _anew(step):
        yield line.words if isinstance(line, Line) else line
    for group in step.groups:
        is_state = group.first.spec is None
        largest = {metric[0].case for metric in group.by_metric}
        # All metrics of a step often moved most in the same case.
        most = f", most in {clean(group.first.case)}" if len(group.cases) > 1 else ""
        about = f": {_range(group.by_metric[0])}" if is_state else most * (len(largest) == 1)
        yield f"{_counted(group)}{about}"
        yield from (line.words for line in _in(group.cases))
        if not is_state:
            yield _table(group, with_case=len(largest) > 1)


def _table(group: Group, *, with_case: bool) -> Table:
    """Return the smallest and the largest move of each metric, and the values of the largest."""
    many = len(group.cases) > 1
    return Table(
        headings=("metric", "least", "most" if many else "change", "old", "new", "most in"),
        rows=tuple(
            Row(
                cells=(
                    clean(most.metric),
                    _change(others[-1]) if others else "",
                    _change(most),
                    shown_value(most.old, most.spec),
                    shown_value(most.new, most.spec),
                    clean(most.case) if with_case else "",
                )
            )
            for most, *others in group.by_metric
        ),
        numbers=(1, 2, 3, 4),
    )


def _change(move: Move) -> str:
    if move.change is not None:
        return shown_change(move.change, move.spec)
    return "new" if move.old is None else "gone" if move.new is None else "from 0"


def _closing(moves: Moves, named: int, command: str) -> Section:
    """Say what is left out, and how to see it."""
    left = len(moves.found) - named
    counted = f"{left:,} of {count_of(len(moves.found), 'move')}, and " if left else ""
    ways = [("all moves:", Code(f"{command} --moved"))] if moves.found else []
    example = moves.found[0].case if moves.found else moves.cases[0]
    ways.append(("a whole case:", Code(f"{command} --cases {quoted(example)}")))
    return Section(
        title=f"left out: {counted}what stayed within its bound", body=tuple(ways), style="strong"
    )


_MOST_GROUPS: Final = 7
_MOST_METRICS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Group:
    """Metrics that moved the same way in the same cases, each with its moves, the largest first."""

    by_metric: tuple[tuple[Move, ...], ...]

    @property
    def first(self) -> Move:
        """The largest move."""
        return self.by_metric[0][0]

    @property
    def cases(self) -> list[str]:
        """The ids of the cases, that of the largest move first."""
        return [move.case for move in self.by_metric[0]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """All that an entry changed since an earlier one, the gravest first."""

    entry: Entry
    before: Entry | None = None
    """None for what the entry defines anew."""
    groups: tuple[Group, ...] = ()
    redefined: tuple[str, ...] = ()

    @property
    def weight(self) -> tuple[bool, float]:
        """How much it tells: what got worse first, then what moved most."""
        return max(map(_weight, self.groups), default=(False, 0.0))


def find_steps(moves: Moves) -> list[Step]:
    """Return what each entry changed, in the order of entries."""
    found: dict[tuple[int, int], list[Move]] = {}
    anew: dict[int, list[str]] = {}
    order = {id(entry): place for place, entry in enumerate(moves.entries)}
    for move in moves.found:
        pair = order[id(move.entry)], order[id(move.before)]
        found.setdefault(pair, []).append(move)
    for one in moves.redefined:
        anew.setdefault(order[id(one.entry)], []).append(one.case)
    steps = {
        (at, since): Step(
            entry=moves.entries[at], before=moves.entries[since], groups=_groups(together)
        )
        for (at, since), together in found.items()
    }
    for at, cases in anew.items():
        steps[at, -1] = Step(entry=moves.entries[at], redefined=tuple(cases))
    return [steps[pair] for pair in sorted(steps)]


def most_telling(steps: Sequence[Step]) -> list[Step]:
    """Return as many steps as fit, in the order of entries.

    Those with the gravest moves stay, among equals the newest.
    """
    kept: set[int] = set()
    groups = 0
    for at in sorted(range(len(steps)), key=lambda at: (steps[at].weight, at), reverse=True):
        groups += len(telling_groups(steps[at])) or 1
        if not kept or groups <= _MOST_GROUPS:
            kept.add(at)
    return [steps[at] for at in sorted(kept)]


def telling_groups(step: Step) -> list[tuple[Group, list[tuple[Move, ...]]]]:
    """Return the groups that say most with their metrics: numbers and states, one of each way.

    At batch 32 a metric is news only if it did not move at batch 1.
    """
    at_one = {metric[0].metric for group in step.groups for metric in group.by_metric}
    found: dict[tuple[str, bool], tuple[Group, list[tuple[Move, ...]]]] = {}
    for group in step.groups:
        news = [
            metric
            for metric in group.by_metric
            if metric[0].metric.removesuffix(BATCH_SUFFIX) not in at_one - {metric[0].metric}
        ]
        if news:
            kind = group.first.way, group.first.spec is None
            found.setdefault(kind, (group, news[:_MOST_METRICS]))
    return list(found.values())


def _groups(moves: Iterable[Move]) -> tuple[Group, ...]:
    by_metric: dict[tuple[Any, ...], list[Move]] = {}
    for move in moves:
        # States are equal in all cases of a group, numbers need not be.
        state = (move.old, move.new) if move.spec is None else ()
        by_metric.setdefault((move.metric, move.way, *state), []).append(move)
    together: dict[tuple[Any, ...], list[tuple[Move, ...]]] = {}
    for found in by_metric.values():
        ordered = tuple(sorted(found, key=_size, reverse=True))
        first = ordered[0]
        alone = None if first.spec is not None else (first.metric, first.old, first.new)
        cases = frozenset(move.case for move in found)
        together.setdefault((first.way, cases, alone), []).append(ordered)
    groups = (
        Group(by_metric=tuple(sorted(found, key=lambda metric: _size(metric[0]), reverse=True)))
        for found in together.values()
    )
    return tuple(sorted(groups, key=_weight, reverse=True))


def _size(move: Move) -> float:
    return math.inf if move.change is None else abs(move.change)


def _weight(group: Group) -> tuple[bool, float]:
    return group.first.way == "worse", _size(group.first)
