"""What cases cost and gain: which of them no other one beats, and what a device must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from peft_regress.gate.budgets import needs_of
from peft_regress.gate.policy import Bounds
from peft_regress.metrics import BATCH_SUFFIX, Unit, format_value, unit_steps
from peft_regress.report.document import CaseId, Line, Section
from peft_regress.report.html import HtmlWriter
from peft_regress.report.page.data import Content, facts_of, gain_name
from peft_regress.report.page.words import ABSENT, method_words, number
from peft_regress.report.results import pareto_front
from peft_regress.report.sentences import shown_change
from peft_regress.report.table import Row, Table
from peft_regress.runs.schema import Record
from peft_regress.text import clean, count_of


class Cost(NamedTuple):
    """What plots and limits compare cases by."""

    name: str
    label: str
    unit: Unit
    parts: tuple[str, ...]
    """Metrics that add up to it: without one of them a case would seem to be cheap."""
    has_batches: bool = False

    def of(self, record: Record, suffix: str) -> float | None:
        """Return the cost of a case; None if a part of it was not measured."""
        if self.name == "storage":
            return needs_of(record)["storage"]
        names = [name + suffix if self.has_batches else name for name in self.parts]
        found = [record.metrics[name].value for name in names if name in record.metrics]
        return sum(found) if len(found) == len(names) else None


_UPDATE: Final = ("forward_flops", "backward_flops", "optimizer_flops")
COSTS: Final = (
    Cost("memory", "peak memory", "byte", ("peak_bytes",), has_batches=True),
    Cost("flops", "FLOPs of one update", "flop", _UPDATE, has_batches=True),
    Cost("trained", "trained parameters", "count", ("trainable_params",)),
    Cost("ship", "size to ship", "byte", ("adapter_bytes",)),
)
_STORAGE: Final = Cost("storage", "storage for weights", "byte", ())
_SUFFIXES: Final = {"1": "", "32": BATCH_SUFFIX}


class Point(NamedTuple):
    """A case in a plot of gain against cost."""

    name: str
    record: Record
    cost: float
    gain: float


def costs_of(record: Record) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `{cost: {batch: {value, text}}}` of a case, as far as it was measured."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cost in (*COSTS, _STORAGE):
        for batch, suffix in _SUFFIXES.items():
            value = cost.of(record, suffix)
            if value is not None and record.status == "ok":
                text = number(value, cost.unit)
                found.setdefault(cost.name, {})[batch] = {"value": value, "text": text}
    return found


def gain_of(content: Content, name: str) -> dict[str, Any] | None:
    """Return a case's accuracy, or its score; None if it has neither."""
    record = content.now[name]
    metric = record.metrics.get(gain_name([record]))
    if metric is None:
        return None
    facts = facts_of(gain_name([record]), metric, Bounds.of(record))
    return {"value": metric.value, "text": number(metric.value, metric.unit), **facts}


def tradeoffs(
    content: Content, batches: Sequence[str], writer: HtmlWriter
) -> dict[str, dict[str, Any]]:
    """Return the plots of each task, cost and batch."""
    found = {}
    for task in content.in_order("task"):
        of_task = {name: one for name, one in content.now.items() if one.case.task == task}
        gain = gain_name(of_task.values())
        for cost in COSTS:
            for batch in batches if cost.has_batches else ["1"]:
                points = [
                    Point(name, record, price, record.metrics[gain].value)
                    for name, record in of_task.items()
                    if record.status == "ok" and gain in record.metrics
                    if (price := cost.of(record, _SUFFIXES[batch])) is not None
                ]
                plots = _Plots(content, cost, gain, writer)
                found[f"{task} {cost.name} {batch}"] = {
                    **plots.of(points),
                    "lost": len(of_task) - len(points),
                }
    return found


class _Plots:
    """The plots of one cost and gain, one for each architecture that has a point."""

    def __init__(self, content: Content, cost: Cost, gain: str, writer: HtmlWriter) -> None:
        self._content, self._cost, self._gain = content, cost, gain
        self._writer = writer
        self._spec = content.specs.get(gain)

    def of(self, points: Sequence[Point]) -> dict[str, Any]:
        """Return the axes, and the points and fronts by architecture."""
        margins = [margin for point in points if (margin := self._margin(point)) is not None]
        tie = None
        if margins and self._spec is not None:
            tie = shown_change(max(margins), self._spec).lstrip("+")
        architectures = self._content.in_order("architecture")
        by_place = {
            place: [one for one in points if one.record.case.architecture == place]
            for place in architectures
        }
        return {
            "label": self._cost.label,
            "has_batches": self._cost.has_batches,
            "steps": unit_steps(self._cost.unit),
            "gain": self._gain,
            "tie": tie,
            "is_share": self._spec is not None and self._spec.unit == "fraction",
            "plots": [self._plot(place, some) for place, some in by_place.items() if some],
        }

    def _plot(self, architecture: str, points: Sequence[Point]) -> dict[str, Any]:
        standard = [
            one for one in points if one.record.case.method in self._content.standard_methods
        ]
        return {
            "architecture": architecture,
            "points": [
                {"id": one.name, "cost": one.cost, "gain": one.gain, "tip": self._tip(one)}
                for one in points
            ],
            "standard": self._front(architecture, standard),
            "all": self._front(architecture, points),
        }

    def _front(self, architecture: str, points: Sequence[Point]) -> dict[str, Any] | None:
        """Return the front of some points, in words and as a table."""
        if not points:
            return None
        front = pareto_front(points, lambda one: one.cost, lambda one: one.gain)
        where = clean(architecture)
        label = (
            f"{self._gain} against {self._cost.label} on {where}: "
            f"{count_of(len(points), 'pairing')}, {len(front)} on the Pareto front, from "
            f"{self._words(front[0])} to {self._words(front[-1])}."
        )
        ties = {one.name: self._tie(one, front) for one in front}
        named = tuple(self._front_line(one, ties[one.name]) for one in front)
        rows = tuple(
            Row(
                cells=(
                    CaseId(clean(one.name), one.name),
                    number(one.cost, self._cost.unit),
                    self._shown(one.gain),
                    self._seeds(one) or ABSENT,
                    "yes" if one.name in ties else "no",
                    ties.get(one.name) or ABSENT,
                )
            )
            for one in sorted(points, key=lambda one: one.cost)
        )
        headings = ("case", self._cost.label, self._gain, "seeds, lowest to highest")
        table = Table(
            headings=(*headings, "on the front", "ties with"),
            rows=rows,
            numbers=(1, 2, 3),
            caption=f"{self._gain} and {self._cost.label} on {where}",
        )
        title = "On the Pareto front, from the cheapest"
        document = [
            Section(title=title, level=3, body=named),
            Section(title="All of its numbers", folded=True, body=(table,)),
        ]
        return {
            "front": [one.name for one in front],
            "label": label,
            "html": self._writer.document(document),
        }

    def _front_line(self, point: Point, tie: str) -> Line:
        shown = f"{self._shown(point.gain)}, {format_value(point.cost, self._cost.unit)}"
        name = CaseId(clean(method_words(point.record.case)), point.name)
        return Line((name, shown, f"ties with {tie}" if tie else ""))

    def _tie(self, point: Point, front: Sequence[Point]) -> str:
        """Return the cheapest case of the front that is as accurate within the margin."""
        margin = self._margin(point)
        for other in front if margin is not None else ():
            if other.cost < point.cost and point.gain - other.gain <= (margin or 0.0):
                return clean(method_words(other.record.case))
        return ""

    def _margin(self, point: Point) -> float | None:
        bound = self._facts(point).get("bound")
        return None if bound is None else float(bound)

    def _facts(self, point: Point) -> dict[str, Any]:
        metric = point.record.metrics[self._gain]
        return facts_of(self._gain, metric, Bounds.of(point.record))

    def _seeds(self, point: Point) -> str:
        return " to ".join(map(self._shown, self._facts(point).get("seeds", ())))

    def _shown(self, gain: float) -> str:
        return format_value(gain, "ratio" if self._spec is None else self._spec.unit)

    def _words(self, point: Point) -> str:
        price = format_value(point.cost, self._cost.unit)
        return f"{clean(method_words(point.record.case))} ({price}, {self._shown(point.gain)})"

    def _tip(self, point: Point) -> str:
        seeds = self._seeds(point)
        return (
            f"{clean(point.name)}\n{self._shown(point.gain)} {self._gain}"
            f"{f', seeds {seeds}' if seeds else ''}\n{format_value(point.cost, self._cost.unit)}"
        )
