"""What a run measured: a row a case, or a few lines each where a row does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peft_regress.metrics import format_value
from peft_regress.report.layout import PLAIN, cells
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft_regress.report.layout import Layout
    from peft_regress.runs.schema import Record, Run

__all__ = ["results_table"]

_HEADINGS: Final = (
    "case", "trained", "ship", "fwd", "bwd", "peak b1", "peak b32", "accuracy", "ms/step",
)  # fmt: skip


def results_table(run: Run, layout: Layout = PLAIN) -> str:
    """Return what was measured; 100 columns wide where the ids are as usual."""
    rows, failed = [], []
    for name, record in sorted(run.cases.items()):
        if record.status == "ok":
            rows.append((layout.shown(clean(name)), *_numbers(record)))
        else:
            failed.append(_failed_line(name, record, layout))
    if not rows:
        return "\n".join(failed)
    widths = [max(map(cells, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    fits = sum(widths) + len(widths) - 1 <= layout.width
    lines = (
        [_aligned(row, widths) for row in (_HEADINGS, *rows)] if fits else _stacked(rows, layout)
    )
    return "\n".join([*lines, *failed])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers = row
    padded = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True)]
    return " ".join([first + " " * (widths[0] - cells(first)), *padded])


def _stacked(rows: Sequence[Sequence[str]], layout: Layout) -> list[str]:
    lines = []
    for first, *numbers in rows:
        named = zip(_HEADINGS[1:], numbers, strict=True)
        told = ", ".join(f"{heading} {number}" for heading, number in named)
        lines += [layout.wrapped(first), layout.wrapped(f"  {told}", indent="    ")]
    return lines


def _failed_line(name: str, record: Record, layout: Layout) -> str:
    why = clean(f"{record.error.type}: {record.error.message}") if record.error else ""
    return layout.wrapped(f"{clean(name)} {record.status} {why}".rstrip())


def _numbers(record: Record) -> list[str]:
    def scaled(metric: str, scale: float, form: str) -> str:
        found = record.metrics.get(metric)
        return "-" if found is None else format(float(found.value) / scale, form)

    accuracy = record.metrics.get("accuracy")
    return [
        scaled("trainable_params", 1, ",.0f"),
        scaled("adapter_bytes", 2**20, ".2f"),
        scaled("forward_flops", 1e9, ".3f"),
        scaled("backward_flops", 1e9, ".3f"),
        scaled("peak_bytes", 2**20, ".1f"),
        scaled("peak_bytes_b32", 2**20, ".0f"),
        "-" if accuracy is None else format_value(accuracy.value, "fraction"),
        scaled("step_seconds", 1e-3, ".1f"),
    ]
