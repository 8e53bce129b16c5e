"""What cases cost and gain: which of them no other one beats, and what a device must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from peft_regress.gate.budgets import UPDATE, needs_of
from peft_regress.metrics import BATCH_SUFFIX, METRICS, MetricSpec, Unit, format_value, unit_steps
from peft_regress.report.document import CaseId, Line, Section
from peft_regress.report.html import HtmlWriter
from peft_regress.report.layout import Row, Table
from peft_regress.report.page.content import (
    ABSENT,
    Content,
    facts_of,
    gain_name,
    method_words,
    number,
)
from peft_regress.report.results import common_batch, pareto_front
from peft_regress.report.sentences import shown_change
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
        if self.name == "ram":
            return needs_of(record, suffix)["memory"]
        if self.name == "storage":
            return needs_of(record)["storage"]
        batch = suffix if self.has_batches else ""
        return record.value_of(*(name + batch for name in self.parts))


COSTS: Final = (
    Cost("memory", "peak memory", "byte", ("peak_bytes",), has_batches=True),
    Cost("flops", "FLOPs of one update", "flop", UPDATE, has_batches=True),
    Cost("trained", "trained parameters", "count", ("trainable_params",)),
    Cost("ship", "size to ship", "byte", ("adapter_bytes",)),
)
_NEEDS: Final = (
    Cost("ram", "tensors of an update", "byte", (), has_batches=True),
    Cost("storage", "storage for weights", "byte", ()),
)
_SUFFIXES: Final = {"1": "", "32": BATCH_SUFFIX}


def costs_of(record: Record) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `{cost: {batch: {value, text}}}` of a case, as far as it was measured."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cost in (*COSTS, *_NEEDS):
        for batch, suffix in _SUFFIXES.items():
            value = cost.of(record, suffix)
            if value is not None and record.status == "ok":
                text = number(value, cost.unit)
                found.setdefault(cost.name, {})[batch] = {"value": value, "text": text}
    return found


def batches_of(content: Content) -> list[dict[str, str]]:
    """Return the batches that costs are of: that of costs without a suffix, and 32."""
    batch = common_batch([record for record in content.now.values() if record.status == "ok"])
    words = "at each case's own batch" if batch is None else f"at batch {batch}"
    label = "each case's own" if batch is None else str(batch)
    found = [{"value": "1", "label": label, "words": words, "suffix": ""}]
    if any(name.endswith(BATCH_SUFFIX) for name in content.specs):
        found.append({"value": "32", "label": "32", "words": "at batch 32", "suffix": BATCH_SUFFIX})
    return found


class Point(NamedTuple):
    """A case in a plot of gain against cost, with the texts of both and of its seeds."""

    name: str
    record: Record
    cost: float
    gain: float
    facts: dict[str, Any]
    shown_cost: str
    shown_gain: str
    seeds: str


class Axes(NamedTuple):
    """What a plot shows: a cost, and a gain with what it is."""

    cost: Cost
    gain: str
    spec: MetricSpec

    def point(self, name: str, record: Record, suffix: str) -> Point | None:
        """Return a case in the plot; None if it lacks one of both."""
        cost = self.cost.of(record, suffix)
        if cost is None or record.status != "ok" or self.gain not in record.metrics:
            return None
        gain, facts = record.metrics[self.gain].value, facts_of(self.gain, record)
        unit = self.spec.unit
        seeds = " to ".join(format_value(seed, unit) for seed in facts.get("seeds", ()))
        texts = format_value(cost, self.cost.unit), format_value(gain, unit), seeds
        return Point(name, record, cost, gain, facts, *texts)


def tradeoffs(content: Content, writer: HtmlWriter) -> dict[str, dict[str, Any]]:
    """Return the plots of each task, cost and batch, one for each architecture with a point."""
    batches = [one["value"] for one in batches_of(content)]
    architectures = content.in_order("architecture")
    found = {}
    for task in content.in_order("task"):
        of_task = {name: one for name, one in content.now.items() if one.case.task == task}
        gain = gain_name(of_task.values())
        spec = METRICS[gain]
        for cost in COSTS:
            axes = Axes(cost, gain, spec)
            for batch in batches if cost.has_batches else ["1"]:
                every = (axes.point(name, one, _SUFFIXES[batch]) for name, one in of_task.items())
                points = [point for point in every if point is not None]
                margins = [one.facts["bound"] for one in points if "bound" in one.facts]
                plots = {
                    place: [one for one in points if one.record.case.architecture == place]
                    for place in architectures
                }
                found[f"{task} {cost.name} {batch}"] = {
                    "label": cost.label,
                    "has_batches": cost.has_batches,
                    "steps": unit_steps(cost.unit),
                    "gain": gain,
                    "tie": shown_change(max(margins), spec).lstrip("+") if margins else None,
                    "is_share": spec.unit == "fraction",
                    "plots": [
                        _plot(content, axes, writer, some) for some in plots.values() if some
                    ],
                    "lost": len(of_task) - len(points),
                }
    return found


def _plot(
    content: Content, axes: Axes, writer: HtmlWriter, points: Sequence[Point]
) -> dict[str, Any]:
    standard = [one for one in points if one.record.case.method in content.standard_methods]
    return {
        "architecture": points[0].record.case.architecture,
        "points": [
            {"id": one.name, "cost": one.cost, "gain": one.gain, "tip": _tip(one, axes)}
            for one in points
        ],
        "standard": _front(axes, writer, standard),
        "all": _front(axes, writer, points),
    }


def _tip(point: Point, axes: Axes) -> str:
    seeds = f", seeds {point.seeds}" if point.seeds else ""
    return f"{clean(point.name)}\n{point.shown_gain} {axes.gain}{seeds}\n{point.shown_cost}"


def _front(axes: Axes, writer: HtmlWriter, points: Sequence[Point]) -> dict[str, Any] | None:
    """Return the front of some points, in words and as a table."""
    if not points:
        return None
    front = pareto_front(points, lambda one: one.cost, lambda one: one.gain)
    where = clean(points[0].record.case.architecture)
    ends = " to ".join(
        f"{method_words(one.record.case)} ({one.shown_cost}, {one.shown_gain})"
        for one in (front[0], front[-1])
    )
    label = (
        f"{axes.gain} against {axes.cost.label} on {where}: {count_of(len(points), 'pairing')}, "
        f"{len(front)} on the Pareto front, from {ends}."
    )
    lines = tuple(
        Line((
            CaseId(method_words(one.record.case), one.name),
            f"{one.shown_gain}, {one.shown_cost}",
        ))
        for one in front
    )  # fmt: skip
    on_front = {one.name for one in front}
    rows = tuple(
        Row(
            cells=(
                CaseId(clean(one.name), one.name),
                number(one.cost, axes.cost.unit),
                one.shown_gain,
                one.seeds or ABSENT,
                "yes" if one.name in on_front else "no",
            )
        )
        for one in sorted(points, key=lambda one: one.cost)
    )
    headings = ("case", axes.cost.label, axes.gain, "seeds, lowest to highest", "on the front")
    caption = f"{axes.gain} and {axes.cost.label} on {where}"
    table = Table(headings=headings, rows=rows, numbers=(1, 2, 3), caption=caption)
    document = [
        Section(title="On the Pareto front, from the cheapest", level=3, body=lines),
        Section(title="All of its numbers", folded=True, body=(table,)),
    ]
    return {"front": [one.name for one in front], "label": label, "html": writer.document(document)}
