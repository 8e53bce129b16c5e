"""One metric over the entries of a history: points, what is comparable, change points."""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft_regress.gate.changes import are_comparable, change_of, direction_of, value_of
from peft_regress.gate.policy import DEFAULT_POLICY, Bounds
from peft_regress.gate.repeats import lacks_seeds
from peft_regress.gate.verdicts import Change
from peft_regress.metrics import Kind, Metric, Unit
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.schema import MIXED_MACHINES, Record, Role, Run

_SMALLEST = 1e-12
"""Stands for zero in a logarithm."""
STATUS = "status"
"""The name of the line that shows the status of a case that was not always ok."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run in the history: an entry of the storage, or a run that was named."""

    name: str
    date: str
    role: Role | Literal["run"]
    run: Run
    path: Path | None = None
    """The run file or the folder of shards; None if the run was never written."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric in one entry."""

    entry: Entry
    status: str
    value: float | None
    unit: Unit | None
    packages: Mapping[str, tuple[str | None, str | None]]
    """Version before and here, of every package that differs from the entry before."""

    differs: bool
    """Whether it differs at all from the entry before."""

    is_comparable: bool
    """False if the definition of the case, the metric or its samples changed."""

    change: Change | None
    """From the last comparable point, as the gate computes it."""

    is_change_point: bool

    same_as: str | None = None
    """The run whose training it repeats where the case was not trained, so that nobody measured the
    metric."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of one case, oldest point first."""

    metric: str
    unit: Unit | None
    kind: Kind | None
    """Unit and kind in the newest entry that has the metric."""

    points: tuple[Point, ...]
    remark: str | None = None
    """Why nobody looked for change points, if so."""

    @property
    def is_still(self) -> bool:
        """Whether neither the metric nor its definition ever changed."""
        return not any(point.differs or not point.is_comparable for point in self.points)

    def notable(self) -> tuple[Point, ...]:
        """Return the first point, the last, and those between where something changed.

        Rounding and noise change at every point. Where change points tell them from a real change,
        only change points count.
        """
        has_rounding = self.kind in {"fingerprint", "score"} or (
            _is_noisy(self.kind, self.unit) and self.remark is None
        )
        points = self.points
        return tuple(
            point
            for index, point in enumerate(points)
            if index in (0, len(points) - 1)
            or point.is_change_point
            or (point.differs and not has_rounding)
            or (_is_absent(point) != _is_absent(points[index - 1]))
            or not point.is_comparable
            or not points[index + 1].is_comparable
        )


def _is_absent(point: Point) -> bool:
    """Return whether a metric is lost; one that was not trained is as it was."""
    return point.value is None and point.same_as is None


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A position where a metric changed, or its definition did."""

    position: int
    before: int | None = None
    change: Change | None = None
    """From `before`, the last comparable position; both are None if the definition changed."""


def make_line(records: Sequence[tuple[Entry, Record]], name: str) -> Line:
    """Return the line of one metric of one case from its records, oldest first."""
    walk = _Walk(name, records, [record.metrics.get(name) for _, record in records])
    points = []
    measured = 0
    for index, ((entry, record), metric) in enumerate(zip(records, walk.metrics, strict=True)):
        earlier_entry, earlier = records[max(index - 1, 0)]
        change = walk.change_at(index)
        was = walk.metrics[measured]
        same_as = record.repeated_run if lacks_seeds(record, name) else None
        if same_as is None:
            measured = index
        points.append(
            Point(
                entry=entry,
                status=record.status_text,
                value=None if metric is None else value_of(metric),
                unit=None if metric is None else metric.unit,
                packages=changed_packages(earlier_entry.run.environment, entry.run.environment),
                differs=(metric != was and same_as is None)
                or (name == STATUS and earlier.status_text != record.status_text),
                is_comparable=index not in walk.breaks,
                change=change,
                # One step of a noisy metric proves nothing.
                is_change_point=index in walk.levels
                if walk.is_noisy
                else walk.is_jump(index, change),
                same_as=same_as,
            )
        )
    return Line(
        metric=name, unit=walk.unit, kind=walk.kind, points=tuple(points), remark=walk.remark
    )


def jumps_of(
    records: Sequence[tuple[Entry, Record]], metrics: Sequence[Metric | None], name: str
) -> list[Jump]:
    """Return where `make_line` has a change point or a break, and where noise left its bound.

    It makes no points, since most of a long history never changes. `metrics` are those of that name
    in the records, oldest first.
    """
    walk = _Walk(name, records, metrics)
    found = [Jump(position=index) for index in walk.breaks]
    for index, before in walk.before.items():
        if metrics[index] is metrics[before] and index not in walk.levels:
            continue  # entries that agree share the metric
        change = walk.change_at(index)
        if index in walk.levels or walk.is_jump(index, change):
            found.append(Jump(position=index, before=before, change=change))
    return sorted(found, key=lambda jump: jump.position)


class _Walk:
    """One walk along the records of a metric: what is comparable, and where a level begins."""

    def __init__(
        self,
        name: str,
        records: Sequence[tuple[Entry, Record]],
        metrics: Sequence[Metric | None],
    ) -> None:
        self.name = name
        self.records = records
        self.metrics = metrics
        chains, self.breaks = _chains(records, metrics)
        self.before = {new: old for chain in chains for old, new in itertools.pairwise(chain)}
        """For each position the last one before it that it can be compared with."""
        newest = next((metric for metric in reversed(metrics) if metric is not None), None)
        self.kind = None if newest is None else newest.kind
        self.unit = None if newest is None else newest.unit
        self.is_noisy = _is_noisy(self.kind, self.unit)
        self.levels: set[int] = set()
        """The positions at which a noisy metric reaches another level."""
        self.remark: str | None = None
        if self.is_noisy:
            self.levels, self.remark = _levels(metrics, chains, self.kind, self.unit)

    def change_at(self, index: int) -> Change | None:
        """Return how far the metric changed since the last comparable position."""
        before = self.before.get(index, index)
        old, new = self.metrics[before], self.metrics[index]
        if before == index or old is None or new is None:
            return None
        bounds = Bounds.between(self.records[before][1], self.records[index][1])
        return change_of(self.name, old, new, bounds)

    def is_jump(self, index: int, change: Change | None) -> bool:
        """Return whether one step is news by itself: a cost changed, or noise left its bound."""
        metric = self.metrics[index]
        if change is None or metric is None:
            return False
        if metric.kind in {"fingerprint", "score"} or _is_noisy(metric.kind, metric.unit):
            return metric.kind != "info" and direction_of(change, metric) is not None
        return change.old != change.new


def _chains(
    records: Sequence[tuple[Entry, Record]], metrics: Sequence[Metric | None]
) -> tuple[list[list[int]], set[int]]:
    """Return chains of comparable positions, and the positions where the definition changed.

    Seconds are comparable only on one machine, so each machine has its own chain.
    """
    chains: list[list[int]] = []
    current: dict[str, list[int]] = {}
    breaks: set[int] = set()
    for index, ((entry, record), metric) in enumerate(zip(records, metrics, strict=True)):
        defined_anew = index > 0 and record.definition != records[index - 1][1].definition
        others = [metrics[chain[-1]] for chain in current.values()]
        if defined_anew or not all(other is metric or _is_same(other, metric) for other in others):
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
    """Return whether the definition of a metric is unchanged; an absent metric changes nothing."""
    return old is None or new is None or are_comparable(old, new)


def _levels(
    metrics: Sequence[Metric | None],
    chains: Sequence[Sequence[int]],
    kind: Kind | None,
    unit: Unit | None,
) -> tuple[set[int], str | None]:
    """Return the positions at which another level begins, or why nobody looked for them."""
    longest = max(map(len, chains), default=0)
    if longest < FEWEST_POINTS:
        return (
            set(),
            f"change points need {FEWEST_POINTS} comparable points, and there are {longest}",
        )
    if not can_find_change_points():
        return set(), "change points need `pip install 'peft-regress[history]'`"
    noise = _noise(kind, unit)
    found: set[int] = set()
    for chain in chains:
        if len(chain) >= FEWEST_POINTS:
            values = [_level(metrics[index], unit) for index in chain]
            found |= {chain[position] for position in find_change_points(values, noise=noise)}
    return found, None


def _is_noisy(kind: Kind | None, unit: Unit | None) -> bool:
    # How much a score varies, only its author knows.
    return kind in {"accuracy", "seconds"} or (unit == "ratio" and kind != "score")


def _noise(kind: Kind | None, unit: Unit | None) -> float:
    """Return the policy's standard deviation of one value of a noisy metric."""
    if unit == "fraction":
        return DEFAULT_POLICY.accuracy_noise
    return DEFAULT_POLICY.loss_noise if kind == "accuracy" else DEFAULT_POLICY.seconds_noise


def _level(metric: Metric | None, unit: Unit | None) -> float:
    """Return a value on the scale where its noise is even: a logarithm, except for fractions."""
    assert metric is not None  # noqa: S101  (a chain holds only measured points)
    value = value_of(metric)
    return value if unit == "fraction" else math.log(max(value, _SMALLEST))


_SHORTEST_LEVEL = 3
FEWEST_POINTS = 2 * _SHORTEST_LEVEL
"""A level shorter than three points could as well be an outlier."""

_PENALTY = 4.0
_DEVIATIONS = 1.4826 / math.sqrt(2)
"""Turns the median of |difference of neighbours| into the standard deviation of one value."""


def can_find_change_points() -> bool:
    """Return whether the library is installed: `pip install 'peft-regress[history]'`."""
    return importlib.util.find_spec("ruptures") is not None


def find_change_points(values: Sequence[float], *, noise: float) -> list[int]:
    """Return the positions in `values` at which another level begins.

    `noise` is the known standard deviation of one value; if neighbours differ by more, the series
    itself gives it. Raises `ValueError` for fewer than `FEWEST_POINTS` values.
    """
    if len(values) < FEWEST_POINTS:
        raise ValueError(f"{len(values)} values, and a change point needs {FEWEST_POINTS}")
    import numpy as np
    import ruptures

    differences = [abs(b - a) for a, b in itertools.pairwise(values)]
    noise = max(noise, _DEVIATIONS * statistics.median(differences))
    signal = np.array(values).reshape(-1, 1) / noise
    # The cost of the linear kernel is that of a shift in the mean; ruptures computes it in C.
    search = ruptures.KernelCPD(kernel="linear", min_size=_SHORTEST_LEVEL, jump=1).fit(signal)
    found = search.predict(pen=_PENALTY * math.log(len(values)))
    return [int(position) for position in found[:-1]]
