"""Name the modules, operators and categories behind a change of FLOPs or bytes. Pure.

A breakdown adds up exactly on either side: its rows, the unchanged layers, and what the ledger does
not account for are the metric.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from peft_regress import metrics
from peft_regress.runs import ledger
from peft_regress.runs.schema import Record

Side = Literal["old", "new"]
By = Literal["module", "operator"]

COSTS: tuple[str, ...] = tuple(
    name
    for name in metrics.METRICS
    if name.removesuffix(metrics.BATCH_SUFFIX) in metrics.COST_METRICS
    or name in metrics.INFERENCE_METRICS
    or name in metrics.EDGE_METRICS
    or name in {"trainable_params", "total_params", "adapter_bytes"}
)
"""The metrics that do not depend on the task: `explain` explains these."""

_WRAPPED = ".base_layer"
"""The name that peft gives to the module that an adapter wraps."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    what: str
    """An operator, or a category of bytes."""
    old: int
    new: int

    @property
    def change(self) -> int:
        return self.new - self.old


@dataclass(frozen=True, kw_only=True)
class Contribution(_Part):
    """The part of a change that comes from one operator, or one category of bytes, of a module."""

    module: str
    only_in: Side | None = None
    """The side that has a module of this name if the other has none."""


@dataclass(frozen=True, kw_only=True)
class LayerChange(_Part):
    """The part of a change that comes from one operator of a layer and its adapter."""

    layer: str
    rows: tuple[Contribution, ...]
    """The layer's modules that changed, the largest change first."""
    base_runs: int | None
    """How many extra runs of its base operator the layer costs, if that is a whole number."""

    @property
    def base(self) -> str:
        """Name the module that the adapter wraps."""
        return self.layer + _WRAPPED


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """One way to split the change of a metric."""

    by: By
    rows: tuple[Contribution, ...]
    """What changed, the largest change first."""
    layers: tuple[LayerChange, ...]
    """The same rows by layer, with the unchanged modules of each layer."""
    unmoved: int
    """The sum over unchanged layers, the same on both sides."""
    unattributed: tuple[int | float, int | float]
    """The part of the metric that its ledger does not hold, old and new: (0, 0) if it is right."""


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """How a cost metric changed, and where."""

    metric: str
    unit: metrics.Unit
    old: float | None
    new: float | None
    breakdowns: tuple[Breakdown, ...]
    """By module; `optimizer_flops` also by operator. Empty if a ledger does not hold the metric."""
    not_held_by: tuple[Side, ...]
    """The sides whose ledger should have rows of this metric but has none."""
    peak_phases: tuple[str, str] | None
    """The phase of the step in which the peak occurs, old and new; for `peak_bytes` only."""

    @property
    def change(self) -> int | float:
        """Return new minus old; an absent metric counts as 0."""
        return (self.new or 0) - (self.old or 0)

    @property
    def relative_change(self) -> float | None:
        """Return the change relative to the old value; None if that is zero or absent."""
        return self.change / self.old if self.old else None

    @property
    def shortest(self) -> tuple[Contribution, ...]:
        """Return the rows of the breakdown that has the fewest."""
        return min((split.rows for split in self.breakdowns), key=len, default=())


def changed_costs(old: Record, new: Record) -> tuple[MetricChange, ...]:
    """Return every cost metric whose value differs, or that only one side has."""
    if not old.status == new.status == "ok":  # it has no costs
        return ()
    return tuple(
        explain_metric(name, old, new) for name in COSTS if old.value_of(name) != new.value_of(name)
    )


def explain_metric(metric: str, old: Record, new: Record) -> MetricChange:
    """Return how a metric of two records changed, split as far as both ledgers hold it."""
    records: dict[Side, Record] = {"old": old, "new": new}
    views: dict[By, Callable[..., ledger.Rows | None]] = {}
    if metric in ledger.LEDGER_METRICS | ledger.PLAN_METRICS:
        views["module"] = ledger.rows_of
        if metric.removesuffix(metrics.BATCH_SUFFIX) == "optimizer_flops":
            views["operator"] = ledger.operator_rows_of
    breakdowns, holding = [], set[Side]()
    for by, view in views.items():
        held: dict[Side, ledger.Rows] = {}
        for side, record in records.items():
            rows = view(record.whole_ledger, metric)
            if rows is not None or not record.value_of(metric):
                held[side] = rows or {}
        holding |= held.keys()
        if len(held) == len(records):
            breakdowns.append(_breakdown(by, metric, held, records))
    phases = [one.whole_ledger.peak_phase.get(metric) for one in records.values()]
    return MetricChange(
        metric=metric,
        unit=metrics.METRICS[metric].unit,
        old=records["old"].value_of(metric),
        new=records["new"].value_of(metric),
        breakdowns=tuple(breakdowns),
        not_held_by=tuple(side for side in records if views and side not in holding),
        peak_phases=(phases[0], phases[1]) if phases[0] and phases[1] else None,
    )


def _breakdown(
    by: By, metric: str, held: Mapping[Side, ledger.Rows], records: Mapping[Side, Record]
) -> Breakdown:
    before, after = held["old"], held["new"]
    modules: dict[Side, set[str]] = {
        side: {*record.whole_ledger.modules} for side, record in records.items()
    }
    rows = [
        Contribution(
            module=module,
            what=what,
            old=before.get((module, what), 0),
            new=after.get((module, what), 0),
            only_in=_only_in(module, modules),
        )
        for module, what in before.keys() | after.keys()
    ]
    rows.sort(key=lambda row: (-abs(row.change), row.module, row.what))
    names = {row.module for row in rows}.union(*modules.values())
    is_work = metric.removesuffix(metrics.BATCH_SUFFIX) in ledger.MATRIX_WORK
    layers = _layers(rows, names, of_matrix_work=is_work)
    values = [record.value_of(metric) or 0 for record in records.values()]
    return Breakdown(
        by=by,
        rows=tuple(row for row in rows if row.change),
        layers=tuple(layer for layer in layers if layer.rows),
        unmoved=sum(layer.old for layer in layers if not layer.rows),
        unattributed=(values[0] - sum(before.values()), values[1] - sum(after.values())),
    )


def _only_in(module: str, modules: Mapping[Side, Collection[str]]) -> Side | None:
    """Return the side that alone has a module; None if a side has no ledger."""
    sides = [side for side, names in modules.items() if module in names]
    return sides[0] if module and len(sides) == 1 and all(modules.values()) else None


def _layers(
    rows: Iterable[Contribution], modules: Iterable[str], *, of_matrix_work: bool
) -> list[LayerChange]:
    """Group rows, sorted by the size of their change, by layer and operator."""
    wrapped = {name.removesuffix(_WRAPPED) for name in modules if name.endswith(_WRAPPED)}
    groups: dict[tuple[str, str], list[Contribution]] = defaultdict(list)
    for row in rows:
        groups[_layer_of(row.module, wrapped), row.what].append(row)
    layers = [
        LayerChange(
            layer=layer,
            what=what,
            old=sum(row.old for row in group),
            new=sum(row.new for row in group),
            rows=tuple(row for row in group if row.change),
            base_runs=_base_runs(layer, group) if of_matrix_work else None,
        )
        for (layer, what), group in groups.items()
    ]
    return sorted(layers, key=lambda found: (-abs(found.change), found.layer, found.what))


def _layer_of(module: str, wrapped: Collection[str]) -> str:
    """Return the layer that a part of an adapter belongs to; any other module is its own layer."""
    name = module
    while name and name not in wrapped:
        name = name.rpartition(".")[0]
    return name or module


def _base_runs(layer: str, rows: Iterable[Contribution]) -> int | None:
    """Return how many runs of its base operator a layer's change equals, if a whole number."""
    change = sum(row.change for row in rows)
    sizes = {n for row in rows if row.module == layer + _WRAPPED for n in (row.old, row.new) if n}
    # If the base operator changed, too, the smaller number is one run.
    once = min(sizes, default=0)
    if not change or not once or any(size % once for size in (change, *sizes)):
        return None
    return change // once
