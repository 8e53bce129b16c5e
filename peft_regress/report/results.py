"""What was measured: a row for each case, which points no other one beats, costs of one step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from peft_regress.metrics import METRICS, Metric, common_unit, format_value
from peft_regress.report.document import CaseId, Number, Section
from peft_regress.report.layout import PLAIN, Layout, Row, Table, table_text
from peft_regress.report.sentences import REPEATED
from peft_regress.runs.schema import Record, Run
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from peft_regress.cost.step_cost import ByteSite

_T = TypeVar("_T")


class _Column(NamedTuple):
    heading: str
    metric: str
    digits: int = 3
    """Of the median. The smallest value has at least two."""
    most_decimals: int = 2
    unit_of: str = ""
    """The metric whose numbers choose the unit, if not its own: those to compare share one."""


_PEAK: Final = "peak"
"""With the batch of its cases behind it."""
_COLUMNS: Final = (
    _Column("trained", "trainable_params"),
    _Column("ship", "adapter_bytes"),
    _Column("fwd", "forward_flops", 4, 3),
    _Column("bwd", "backward_flops", 4, 3, unit_of="forward_flops"),
    _Column(_PEAK, "peak_bytes", 4, 1),
    _Column("peak b32", "peak_bytes_b32", unit_of="peak_bytes"),
    _Column("edge train", "edge_train_bytes", unit_of="peak_bytes"),
    _Column("edge run", "edge_inference_planned_bytes", unit_of="peak_bytes"),
    _Column("edge file", "edge_train_program_bytes", unit_of="peak_bytes"),
    _Column("accuracy", "accuracy"),
    _Column("score", "score"),
    _Column("step", "step_seconds", 4, 1),
    _Column("optimizer", "optimizer_state_bytes"),
    _Column("inference", "inference_flops", 4, 3, unit_of="forward_flops"),
    _Column("loss", "loss", 4, 3),
)
_LEFT_OUT_FIRST: Final = (
    "loss", "inference", "optimizer", "step", "peak b32", "ship", "edge file", "edge run", "bwd",
    "fwd", "trained",
)  # fmt: skip


def results_table(run: Run, layout: Layout = PLAIN) -> str:
    """Return what was measured as text."""
    return table_text(results(run), layout)


def results(records: Iterable[Record]) -> Table:
    """Return a row for each case, sorted by id, with its numbers or with why it has none."""
    every = sorted(records, key=lambda record: record.case.id)
    known = [record for record in every if record.status == "ok"]
    batch = common_batch(known)
    peak = _PEAK if batch is None else f"{_PEAK} b{batch}"
    names = [peak if column.heading == _PEAK else column.heading for column in _COLUMNS]
    columns = [_texts(column, known) for column in _COLUMNS]
    rows = tuple(
        Row(
            cells=(
                CaseId(clean(record.case.id), record.case.id),
                *(texts.get(record.case.id, "") for _, texts in columns),
            ),
            notes=() if record.status == "ok" else (clean(record.status_text),),
        )
        for record in every
    )
    headings = ("case", *names)
    return Table(
        headings=headings,
        rows=rows,
        numbers=tuple(range(1, len(headings))),
        units=("", *(unit for unit, _ in columns)),
        about=("", *(METRICS[column.metric].about for column in _COLUMNS)),
        droppable=tuple(headings.index(name) for name in _LEFT_OUT_FIRST),
        caption="Cases",
    )


def _texts(column: _Column, records: Collection[Record]) -> tuple[str, dict[str, str]]:
    """Return the unit of a column, and its text for each case; none for a column of no number."""
    name = column.metric
    found = {record.case.id: record.metrics[name] for record in records if name in record.metrics}
    gain = [record for record in records if name == ("score" if record.has_score else "accuracy")]
    repeating = [record for record in gain if record.is_repeat]
    if not found and not repeating:
        return "", {}
    unit = next((metric.unit for metric in found.values()), METRICS[name].unit)
    deciding = column.unit_of or name
    size, shown_unit = common_unit(
        [record.metrics[deciding].value for record in records if deciding in record.metrics], unit
    )
    decimals = _decimals([metric.value / size for metric in found.values()], column)
    texts: dict[str, str] = dict.fromkeys((record.case.id for record in records), "-")
    texts |= {record.case.id: REPEATED for record in repeating}
    for case, metric in found.items():
        scaled = f"{metric.value / size:.{decimals}f}"
        shown = scaled if shown_unit else format_value(metric.value, metric.unit)
        texts[case] = Number(shown, metric.value, metric.unit)
    return shown_unit, texts


def common_batch(records: Collection[Record]) -> int | None:
    """Return the batch that all costs without a suffix are of; None if there is no such."""
    batches = {record.cost_batch for record in records} or {1}
    return batches.pop() if len(batches) == 1 else None


def _decimals(values: Collection[float], column: _Column) -> int:
    """Return how many decimals show enough digits of the median and of the smallest value."""
    positive = sorted(value for value in values if value > 0)
    if not positive:
        return 0
    needed = (
        column.digits - 1 - math.floor(math.log10(positive[len(positive) // 2])),
        1 - math.floor(math.log10(positive[0])),
    )
    return min(max(0, *needed), column.most_decimals)


def overview(records: Iterable[Record], *, sources: str) -> list[Section | Table]:
    """Return the results; `sources` names the runs that the numbers come from."""
    table = results(records)
    title = f"{count_of(len(table.rows), 'case')}, from {clean(sources)}"
    return [Section(title=title), table]


def pareto_front(
    points: Iterable[_T], cost: Callable[[_T], float], gain: Callable[[_T], float]
) -> list[_T]:
    """Return the points that none beats, the cheapest first; of equal points all.

    One beats another if it is at least as cheap and gains as much, and is better in one of the two.
    """
    front: list[_T] = []
    for one in sorted(points, key=lambda one: (cost(one), -gain(one))):
        last = front[-1] if front else one
        is_equal = (cost(one), gain(one)) == (cost(last), gain(last))
        if is_equal or gain(one) > gain(last):
            front.append(one)
    return front


def cost_section(
    title: str, metrics: Mapping[str, Metric], spared: Iterable[ByteSite] = ()
) -> Section:
    """Return what one training step costs: each metric with its unit, and exactly.

    spared: what of the peak no gradient needs.
    """
    rows = []
    for name, metric in metrics.items():
        exact = "" if metric.unit == "count" else f"{metric.value:,d}"
        rows.append(Row.of(name, format_value(metric.value, metric.unit), exact))
    table = Table(headings=("metric", "value", "exact"), rows=tuple(rows), numbers=(1, 2))
    held: Counter[str] = Counter()
    for site in spared:
        held[site.operator] += site.bytes
    shares = [f"{format_value(size, 'byte')} by {name}" for name, size in held.most_common()]
    lines = (f"saved at the peak, and no gradient needs it: {', '.join(shares)}",) if held else ()
    return Section(title=title, body=(table, *lines), level=2)
