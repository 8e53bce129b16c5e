"""A verdict and a run as plain text that fits a terminal of 100 columns."""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING

from peft_regress.attribution import explain_metric
from peft_regress.gate import FAILING, INCOMPLETE
from peft_regress.metrics import METRICS
from peft_regress.report.lines import (
    environment_lines,
    reason_cells,
    short_verdict,
    wrapped,
)
from peft_regress.text import clean
from peft_regress.units import format_value

if TYPE_CHECKING:
    from rich.table import Table

    from peft_regress.gate import CaseVerdict, Observation, Reason
    from peft_regress.records import Record, Run

__all__ = ["case_text", "module_lines", "results_table"]

_WIDTH = 100
_MOST_REASONS = 8
_MOST_MODULES = 3
_MOST_CASES = 40
_MOST_ENVIRONMENT_LINES = 8
_WIDEST = 1000
_HOLES = {
    "missing": "missing (expected, but no record: they did not run, or were renamed)",
    "new": "without a baseline (no accepted entry holds them, so nothing judges them)",
}


_REMEDIES = {
    "missing": "if they are gone for good, add `--retire ID` for each (or a glob) to",
    "new": "if their numbers are right",
}


def case_text(
    case: CaseVerdict, old: Observation | None, new: Observation | None, *, hint: str
) -> str:
    """Explain one case's verdict: each reason with its modules, the environment, what to type."""
    lines = [f"{clean(case.id)}: {short_verdict(case)}"]
    if case.verdict == "new":
        lines.append("  no accepted baseline holds this case, so there is nothing to judge it by")
        if new is not None and new.record.error is not None:
            error = new.record.error
            lines.append(f"  {new.record.status}: {clean(f'{error.type}: {error.message}')}")
    if case.verdict == "missing":
        lines.append("  it was expected and has no record: it did not run, or it was renamed")
    shown = [reason for reason in case.reasons if reason.verdict != "known_defect"]
    for reason in shown[:_MOST_REASONS]:
        lines.append("  " + _reason_line(reason))
        below = module_lines if reason.since is None else _drift_lines
        lines.extend("      " + line for line in below(reason, old, new))
    if len(shown) > _MOST_REASONS:
        rest = ", ".join(clean(reason.title) for reason in shown[_MOST_REASONS:])
        lines.append(f"  and {len(shown) - _MOST_REASONS} more: {clean(rest)}")
    if old is not None and new is not None:
        moved = environment_lines(old.environment, new.environment)
        if case.reasons:
            text = "  environment: " + ("; ".join(moved) or "as in the baseline")
            lines.append(wrapped(text, indent="    ", most_lines=_MOST_ENVIRONMENT_LINES))
        lines.append(f"  baseline: {clean(old.origin)}")
    if case.verdict in FAILING | INCOMPLETE | {"improved", "fixed"} and case.verdict != "missing":
        lines.append(f"  if the new numbers are right: {hint}")
    return "\n".join(lines)


def results_table(run: Run) -> str:
    """Return what was measured, a row a case; 100 columns wide where the ids are as usual."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="")
    table.add_column("case", no_wrap=True)
    headings = ("trained", "ship", "fwd", "bwd", "peak b1", "peak b32", "accuracy", "ms/step")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    failed = []
    for name, record in sorted(run.cases.items()):
        if record.status == "ok":
            _add_row(table, name, record)
        else:
            failed.append(_failed_line(name, record))
    stream = io.StringIO()
    # Wide enough for any id: a table that is squeezed loses digits of its numbers.
    console = Console(file=stream, width=_WIDEST, no_color=True, highlight=False)
    if table.row_count:
        console.print(table)
    return "\n".join([*(line.rstrip() for line in stream.getvalue().splitlines()), *failed])


def _failed_line(name: str, record: Record) -> str:
    why = f"{record.error.type}: {record.error.message}" if record.error else ""
    line = f"{clean(name)} {record.status}"
    return f"{line} {clean(why, longest=max(_WIDTH - len(line) - 1, 40))}".rstrip()


def _add_row(table: Table, name: str, record: Record) -> None:
    from rich.text import Text

    def value(metric: str) -> float | None:
        found = record.metrics.get(metric)
        return None if found is None else float(found.value)

    def scaled(metric: str, scale: float, form: str) -> str:
        found = value(metric)
        return "-" if found is None else format(found / scale, form)

    accuracy = record.metrics.get("accuracy")
    table.add_row(
        Text(clean(name)),
        scaled("trainable_params", 1, ",.0f"),
        scaled("adapter_bytes", 2**20, ".2f"),
        scaled("forward_flops", 1e9, ".3f"),
        scaled("backward_flops", 1e9, ".3f"),
        scaled("peak_bytes", 2**20, ".1f"),
        scaled("peak_bytes_b32", 2**20, ".0f"),
        "-" if accuracy is None else format_value(accuracy.value, "fraction"),
        scaled("step_seconds", 1e-3, ".1f"),
    )


def _reason_line(reason: Reason) -> str:
    metric, old, new, change, bound = reason_cells(reason)
    word = "bound" if reason.since is None else "budget"
    against = f" ({word} {bound})" if bound else ""
    return f"{metric}: {old} -> {new}  {change}{against}".rstrip()


def module_lines(reason: Reason, old: Observation | None, new: Observation | None) -> list[str]:
    """Name the modules behind a change, the largest first."""
    if old is None or new is None:
        return []
    spec = METRICS.get(reason.metric)
    if spec is None:
        return []
    found = explain_metric(reason.metric, old.record, new.record).shortest
    lines = [
        f"{clean(row.module) or '(no module)'} {clean(row.what)}: "
        f"{'+' if row.change > 0 else '-'}{format_value(abs(row.change), spec.unit)}"
        for row in found[:_MOST_MODULES]
    ]
    if len(found) > _MOST_MODULES:
        lines.append(f"and {len(found) - _MOST_MODULES} more modules")
    return lines


def _drift_lines(reason: Reason, _: Observation | None, new: Observation | None) -> list[str]:
    """Say why the newest baseline did not show it, and how to see the steps."""
    if new is None:
        return []
    case = shlex.quote(clean(new.record.case.id))
    command = (
        f"peft-regress history --case {case} --metric {shlex.quote(clean(reason.metric))} --all"
    )
    return ["no step was beyond its bound, but they add up; they are shown by", command]
