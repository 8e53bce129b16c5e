"""Which cases left the front of accuracy against cost. Pure.

A case is on the front of its task and architecture if no other one is as accurate and costs no
more. Accuracy is noisy, so a case counts as on the front only if every case that costs no more is
less accurate by more than the margin; it left if one of those is now at least as accurate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from peft_regress.gate.budgets import update_flops, value_in
from peft_regress.gate.facts import first_difference
from peft_regress.gate.policy import Bounds, Policy
from peft_regress.gate.verdicts import Observation
from peft_regress.runs.schema import Record

FrontCost = Literal["peak_bytes", "update FLOPs"]

_COSTS: Final[dict[FrontCost, Callable[[Record], float | None]]] = {
    "peak_bytes": lambda record: value_in(record, "peak_bytes"),
    "update FLOPs": update_flops,
}


@dataclass(frozen=True, kw_only=True)
class LostFront:
    """A case that was on a front and no longer is."""

    case: str
    cost: FrontCost
    beaten_by: str
    """The case that is now at least as accurate and costs no more: the most accurate such one."""


class _Point(NamedTuple):
    case: str
    cost: float
    accuracy: float


def lost_fronts(
    old: Mapping[str, Observation], new: Mapping[str, Observation], *, policy: Policy
) -> tuple[LostFront, ...]:
    """Return the cases that left a front of their task and architecture, by cost and id.

    Only cases that both sides measured alike count, so a case that is added beats none.
    """
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = defaultdict(list)
    for name in sorted(old.keys() & new.keys()):
        before, after = old[name].record, new[name].record
        is_alike = before.status == after.status == "ok" and before.definition == after.definition
        if is_alike and first_difference(before, after) is None:
            groups[after.case.task, after.case.architecture].append((before, after))
    return tuple(
        lost for cost in _COSTS for pairs in groups.values() for lost in _lost(cost, pairs, policy)
    )


def _lost(
    cost: FrontCost, pairs: list[tuple[Record, Record]], policy: Policy
) -> Iterator[LostFront]:
    points = [
        (old, was, now)
        for old, new in pairs
        if (was := _point(old, cost)) and (now := _point(new, cost))
    ]
    for record, was, now in points:
        before = _best_rival(was, [point for _, point, _ in points])
        after = _best_rival(now, [point for _, _, point in points])
        (margin,) = Bounds.of(record, policy).usual.on("accuracy", record.metrics["accuracy"])
        was_on_front = before is None or before.accuracy < was.accuracy - margin
        if was_on_front and after is not None and after.accuracy >= now.accuracy:
            yield LostFront(case=now.case, cost=cost, beaten_by=after.case)


def _point(record: Record, cost: FrontCost) -> _Point | None:
    accuracy, spent = value_in(record, "accuracy"), _COSTS[cost](record)
    return None if accuracy is None or spent is None else _Point(record.case.id, spent, accuracy)


def _best_rival(point: _Point, all_points: list[_Point]) -> _Point | None:
    """Return the most accurate of the others that cost no more."""
    rivals = (one for one in all_points if one.case != point.case and one.cost <= point.cost)
    return min(rivals, key=lambda one: (-one.accuracy, one.cost, one.case), default=None)
