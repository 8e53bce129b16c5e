"""One metric over the entries of a history: points, what is comparable, change points."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from peft_regress.baselines.change_points import (
    FEWEST_POINTS,
    can_find_change_points,
    find_change_points,
)
from peft_regress.gate.changes import are_comparable, change_of, direction_of, value_of
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import MIXED_MACHINES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from peft_regress.gate.changes import Change
    from peft_regress.metrics import Kind, Metric, Unit
    from peft_regress.runs.schema import Record, Role, Run

__all__ = ["STATUS", "Entry", "Jump", "Line", "Point", "jumps_of", "make_line"]

_SMALLEST = 1e-12
STATUS = "status"
"""The line of a case that did not always come through."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run in the history: an entry of the storage, or a run file that was named."""

    name: str
    date: str
    role: Role | Literal["run"]
    run: Run
    path: Path | None = None
    """The run file, or the folder of shards; None of a run that was never written."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric in one entry."""

    entry: Entry
    status: str
    value: float | None
    unit: Unit | None
    packages: Mapping[str, tuple[str | None, str | None]]
    """Version before and here, of every package that differs from the entry before."""

    moved: bool
    """Whether it differs at all from the entry before."""

    is_comparable: bool
    """False where the case, the metric or its samples are defined otherwise than before."""

    move: Change | None
    """From the last point that it can be compared with, as the gate takes it."""

    is_change_point: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of one case, oldest point first."""

    metric: str
    unit: Unit | None
    kind: Kind | None
    """Unit and kind in the newest entry that has it."""

    points: tuple[Point, ...]
    remark: str | None = None
    """Why change points were not looked for, where they were not."""

    @property
    def is_still(self) -> bool:
        """Whether nothing ever moved, nor was defined otherwise."""
        return not any(point.moved or not point.is_comparable for point in self.points)

    def notable(self) -> tuple[Point, ...]:
        """Return the first point, the last, and those between where something changed.

        Rounding and noise change at every point: where it is known what stands out from them, that
        alone counts.
        """
        stands_out = self.kind == "fingerprint" or (
            _is_noisy(self.kind, self.unit) and self.remark is None
        )
        points = self.points
        return tuple(
            point
            for index, point in enumerate(points)
            if index in (0, len(points) - 1)
            or point.is_change_point
            or (point.moved and not stands_out)
            or (point.value is None) != (points[index - 1].value is None)
            or not point.is_comparable
            or not points[index + 1].is_comparable
        )


def make_line(records: Sequence[tuple[Entry, Record]], name: str) -> Line:
    """Return the line of one metric of one case from its records, oldest first."""
    metrics = [record.metrics.get(name) for _, record in records]
    chains, breaks = _chains(records, metrics)
    before = {after: old for chain in chains for old, after in itertools.pairwise(chain)}
    points = []
    for index, ((entry, record), metric) in enumerate(zip(records, metrics, strict=True)):
        earlier_entry, earlier = records[max(index - 1, 0)]
        old = metrics[before[index]] if index in before else None
        move, jumped = _move(name, old, metric, method=record.case.method)
        points.append(
            Point(
                entry=entry,
                status=record.status_text,
                value=None if metric is None else value_of(metric),
                unit=None if metric is None else metric.unit,
                packages=changed_packages(earlier_entry.run.environment, entry.run.environment),
                moved=metric != metrics[max(index - 1, 0)]
                or (name == STATUS and earlier.status_text != record.status_text),
                is_comparable=index not in breaks,
                move=move,
                is_change_point=jumped,
            )
        )
    newest = next((metric for metric in reversed(metrics) if metric is not None), None)
    kind, unit = (None, None) if newest is None else (newest.kind, newest.unit)
    line = Line(metric=name, unit=unit, kind=kind, points=tuple(points))
    # Of what is noisy, one step says nothing.
    return _with_levels(line, chains) if _is_noisy(kind, unit) else line


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A position where a metric changed, or is defined otherwise than before (without a move)."""

    position: int
    before: int | None = None
    move: Change | None = None


def jumps_of(
    records: Sequence[tuple[Entry, Record]], metrics: Sequence[Metric | None], name: str
) -> list[Jump]:
    """Return where `make_line` has a change point or a break, and where noise left its bound.

    Nothing is made of the points between: they are most of a long history. `metrics` are those of
    that name in the records, oldest first.
    """
    chains, breaks = _chains(records, metrics)
    found = {index: Jump(position=index) for index in breaks}
    method = records[0][1].case.method
    for chain in chains:
        for before, index in itertools.pairwise(chain):
            old, new = metrics[before], metrics[index]
            if old is new or old is None or new is None:
                continue
            move = change_of(name, old, new, method=method, policy=DEFAULT_POLICY)
            if _is_jump(move, new):
                found[index] = Jump(position=index, before=before, move=move)
    newest = next((metric for metric in reversed(metrics) if metric is not None), None)
    if newest is not None and _is_noisy(newest.kind, newest.unit):
        values = [None if metric is None else value_of(metric) for metric in metrics]
        for index, before in _levels(values, chains, newest.kind, newest.unit)[0].items():
            old, new = metrics[before], metrics[index]
            assert old is not None  # noqa: S101  (a chain holds measured points alone)
            assert new is not None  # noqa: S101  (nor is the other one absent)
            move = change_of(name, old, new, method=method, policy=DEFAULT_POLICY)
            found.setdefault(index, Jump(position=index, before=before, move=move))
    return [found[index] for index in sorted(found)]


def _is_jump(move: Change, metric: Metric) -> bool:
    """Return whether one step says something by itself: a cost moved, or noise left its bound."""
    if metric.kind == "fingerprint" or _is_noisy(metric.kind, metric.unit):
        return metric.kind != "info" and direction_of(move, metric) is not None
    return move.old != move.new


def _move(
    name: str, old: Metric | None, new: Metric | None, *, method: str
) -> tuple[Change | None, bool]:
    """Return how far a metric moved, and whether that is a change point without any statistics."""
    if old is None or new is None:
        return None, False
    move = change_of(name, old, new, method=method, policy=DEFAULT_POLICY)
    if new.kind == "fingerprint":
        return move, direction_of(move, new) is not None
    return move, old.value != new.value


def _chains(
    records: Sequence[tuple[Entry, Record]], metrics: Sequence[Metric | None]
) -> tuple[list[list[int]], set[int]]:
    """Return the positions that can be compared with each other, and those where that ended.

    Seconds can be compared on one machine alone, so that there is a chain a machine.
    """
    chains: list[list[int]] = []
    current: dict[str, list[int]] = {}
    breaks: set[int] = set()
    for index, ((entry, record), metric) in enumerate(zip(records, metrics, strict=True)):
        defined_anew = index > 0 and record.definition != records[index - 1][1].definition
        others = (metrics[chain[-1]] for chain in current.values())
        if defined_anew or any(not _is_same(other, metric) for other in others):
            breaks.add(index)
            current = {}
        if metric is None:
            continue
        machine = entry.run.machine.digest if metric.kind == "seconds" else ""
        if machine == MIXED_MACHINES:
            chains.append([index])
            continue
        if machine not in current:
            current[machine] = []
            chains.append(current[machine])
        current[machine].append(index)
    return chains, breaks


def _is_same(old: Metric | None, new: Metric | None) -> bool:
    """Return whether a metric is defined as before; an absent one is not defined otherwise."""
    return old is None or new is None or are_comparable(old, new)


def _with_levels(line: Line, chains: Sequence[Sequence[int]]) -> Line:
    """Mark the change points of a noisy metric, or say why there is no telling."""
    values = [point.value for point in line.points]
    found, remark = _levels(values, chains, line.kind, line.unit)
    points = tuple(
        replace(point, is_change_point=index in found) for index, point in enumerate(line.points)
    )
    return replace(line, points=points, remark=remark)


def _levels(
    values: Sequence[float | None],
    chains: Sequence[Sequence[int]],
    kind: Kind | None,
    unit: Unit | None,
) -> tuple[dict[int, int], str | None]:
    """Return where another level begins, each with the position before it; or why not to tell."""
    longest = max(map(len, chains), default=0)
    if longest < FEWEST_POINTS:
        return {}, f"change points need {FEWEST_POINTS} comparable points, and there are {longest}"
    if not can_find_change_points():
        return {}, "change points need `pip install 'peft-regress[history]'`"
    noise = _noise(kind, unit)
    found: dict[int, int] = {}
    for chain in chains:
        if len(chain) >= FEWEST_POINTS:
            levels = [_level(values[index], unit) for index in chain]
            positions = find_change_points(levels, noise=noise)
            found |= {chain[position]: chain[position - 1] for position in positions}
    return found, None


def _is_noisy(kind: Kind | None, unit: Unit | None) -> bool:
    return kind in ("accuracy", "seconds") or unit == "ratio"


def _noise(kind: Kind | None, unit: Unit | None) -> float:
    """Return the standard deviation of one value of a noisy metric, as the policy knows it."""
    if unit == "fraction":
        return DEFAULT_POLICY.accuracy_noise
    return DEFAULT_POLICY.loss_noise if kind == "accuracy" else DEFAULT_POLICY.seconds_noise


def _level(value: float | None, unit: Unit | None) -> float:
    """Return a value on the scale that its noise is even on: all but fractions are relative."""
    assert value is not None  # noqa: S101  (a chain holds measured points alone)
    return value if unit == "fraction" else math.log(max(value, _SMALLEST))
