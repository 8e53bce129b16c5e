"""Moves of a history in groups: by the entry that brought them, and by what moved alike. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peft_regress.baselines.history import Moves
from peft_regress.baselines.moves import Move
from peft_regress.baselines.series import Entry
from peft_regress.metrics import BATCH_SUFFIX

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
