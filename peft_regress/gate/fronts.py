"""Which cases left the front of accuracy against cost. Pure.

A case is on the front of its task and architecture if no other one is as accurate and costs no
more. Accuracy is noisy, so a case counts as on the front only if every case that costs no more is
less accurate by more than the margin; it left if one of those is now at least as accurate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from peft_regress.gate.budgets import update_flops
from peft_regress.gate.inputs import first_difference
from peft_regress.gate.policy import Bounds, Policy
from peft_regress.gate.verdicts import Observation
from peft_regress.runs.schema import Record

FrontCost = Literal["peak_bytes", "update FLOPs"]


def _peak_bytes(record: Record) -> float | None:
    metric = record.metrics.get("peak_bytes")
    return None if metric is None else metric.value


_COSTS: Final[dict[FrontCost, Callable[[Record], float | None]]] = {
    "peak_bytes": _peak_bytes,
    "update FLOPs": update_flops,
}


@dataclass(frozen=True, kw_only=True)
class LostFront:
    """A case that was on a front and no longer is."""

    case: str
    cost: FrontCost
    beaten_by: str
    """The case that is now at least as accurate and costs no more: the most accurate such one."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    case: str
    cost: float
    accuracy: float
    margin: float


def lost_fronts(
    old: Mapping[str, Observation], new: Mapping[str, Observation], *, policy: Policy
) -> tuple[LostFront, ...]:
    """Return the cases that left a front of their task and architecture, by cost and id.

    Only cases that both sides measured alike count, so a case that is added beats none.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(old.keys() & new.keys()):
        if _are_alike(old[name].record, new[name].record):
            case = new[name].record.case
            groups[case.task, case.architecture].append(name)
    return tuple(
        lost
        for cost, measure in _COSTS.items()
        for names in groups.values()
        for lost in _lost(cost, *_points(names, (old, new), measure, policy=policy))
    )


def _are_alike(old: Record, new: Record) -> bool:
    return (
        old.status == new.status == "ok"
        and old.definition == new.definition
        and first_difference(old, new) is None
    )


def _points(
    names: Iterable[str],
    sides: tuple[Mapping[str, Observation], Mapping[str, Observation]],
    measure: Callable[[Record], float | None],
    *,
    policy: Policy,
) -> tuple[list[_Point], list[_Point]]:
    """Return both sides of the cases that have the cost and an accuracy on both."""
    before: list[_Point] = []
    after: list[_Point] = []
    for name in names:
        old, new = (_point(name, side[name].record, measure, policy=policy) for side in sides)
        if old is not None and new is not None:
            before.append(old)
            after.append(new)
    return before, after


def _point(
    name: str, record: Record, measure: Callable[[Record], float | None], *, policy: Policy
) -> _Point | None:
    accuracy, cost = record.metrics.get("accuracy"), measure(record)
    if accuracy is None or cost is None:
        return None
    (margin,) = Bounds.of(record, policy).usual.on("accuracy", accuracy)
    return _Point(case=name, cost=cost, accuracy=accuracy.value, margin=margin)


def _lost(cost: FrontCost, old: list[_Point], new: list[_Point]) -> Iterator[LostFront]:
    before, after = _best_rivals(old), _best_rivals(new)
    accuracy = {point.case: point.accuracy for point in new}
    for point in old:
        was, now = before[point.case], after[point.case]
        is_on_front = was is None or was.accuracy < point.accuracy - point.margin
        if is_on_front and now is not None and now.accuracy >= accuracy[point.case]:
            yield LostFront(case=point.case, cost=cost, beaten_by=now.case)


def _best_rivals(points: Iterable[_Point]) -> dict[str, _Point | None]:
    """Return for each case the most accurate of the others that cost no more."""
    found: dict[str, _Point | None] = {}
    # The most accurate two so far: one of them is not the case itself.
    best: list[_Point] = []
    for _, group in groupby(sorted(points, key=lambda one: one.cost), key=lambda one: one.cost):
        equal = list(group)
        best = sorted([*best, *equal], key=lambda one: (-one.accuracy, one.cost, one.case))[:2]
        for point in equal:
            found[point.case] = next((one for one in best if one.case != point.case), None)
    return found
