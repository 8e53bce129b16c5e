"""What a run measured: a row for each case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peft_regress.metrics import format_value
from peft_regress.report.layout import PLAIN
from peft_regress.report.sentences import SAME_COMPUTATION
from peft_regress.report.table import Row, Table, table_text
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.report.layout import Layout
    from peft_regress.runs.schema import Record, Run

_HEADINGS: Final = (
    "case", "trained", "ship", "fwd", "bwd", "peak b1", "peak b32", "accuracy", "score", "ms/step",
)  # fmt: skip


def results_table(run: Run, layout: Layout = PLAIN) -> str:
    """Return what was measured as text."""
    return table_text(results(run), layout)


def results(run: Run) -> Table:
    """Return a row for each case, with its numbers or with why it has none."""
    return Table(
        headings=_HEADINGS,
        rows=tuple(_row(name, record) for name, record in sorted(run.cases.items())),
        numbers=tuple(range(1, len(_HEADINGS))),
    )


def _row(name: str, record: Record) -> Row:
    if record.status == "ok":
        return Row(cells=(clean(name), *_numbers(record)))
    return Row(
        cells=(clean(name), *[""] * (len(_HEADINGS) - 1)), notes=(clean(record.status_text),)
    )


def _numbers(record: Record) -> list[str]:
    def scaled(metric: str, scale: float, form: str) -> str:
        found = record.metrics.get(metric)
        return "-" if found is None else format(float(found.value) / scale, form)

    score = record.metrics.get("score")
    return [
        scaled("trainable_params", 1, ",.0f"),
        scaled("adapter_bytes", 2**20, ".2f"),
        scaled("forward_flops", 1e9, ".3f"),
        scaled("backward_flops", 1e9, ".3f"),
        scaled("peak_bytes", 2**20, ".1f"),
        scaled("peak_bytes_b32", 2**20, ".0f"),
        _accuracy(record),
        # A column without any score is not shown.
        "" if score is None else format_value(score.value, score.unit),
        scaled("step_seconds", 1e-3, ".1f"),
    ]


def _accuracy(record: Record) -> str:
    accuracy = record.metrics.get("accuracy")
    if accuracy is None:
        return SAME_COMPUTATION if record.is_certified else "-"
    return format_value(accuracy.value, "fraction")
