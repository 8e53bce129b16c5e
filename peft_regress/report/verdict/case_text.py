"""One case's verdict as text: what moved, which modules, what to type."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from peft_regress.gate.attribution import explain_metric
from peft_regress.gate.judge import FAILING, INCOMPLETE
from peft_regress.metrics import BATCH_SUFFIX, METRICS, format_value
from peft_regress.report.layout import PLAIN
from peft_regress.report.sentences import (
    environment_lines,
    reason_cells,
    short_verdict,
)
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.gate.judge import CaseVerdict, Observation, Reason
    from peft_regress.report.layout import Layout

__all__ = ["case_text", "module_lines"]

_MOST_REASONS = 8
_MOST_MODULES = 3
_MOST_LINES = 8


def case_text(  # noqa: PLR0913  (what is told, and how)
    case: CaseVerdict,
    old: Observation | None,
    new: Observation | None,
    *,
    hint: str,
    storage: Sequence[str] = (),
    layout: Layout = PLAIN,
) -> str:
    """Explain one case's verdict: each reason with its modules, the environment, what to type.

    storage: the option that names the baseline storage, where it is not the usual one.
    """
    lines = [f"{clean(case.id)}: {short_verdict(case)}"]
    if case.verdict == "new":
        lines.append("  no accepted baseline holds this case, so there is nothing to judge it by")
        if new is not None and new.record.error is not None:
            error = new.record.error
            lines.append(f"  {new.record.status}: {clean(f'{error.type}: {error.message}')}")
    if case.verdict == "missing":
        lines.append("  it was expected and has no record: it did not run, or it was renamed")
    lines += _reasons_lines(case, old, new, storage)
    if old is not None and new is not None:
        if case.reasons:
            moved = environment_lines(old.environment, new.environment)
            lines.append("  environment: " + ("; ".join(moved) or "as in the baseline"))
        lines.append(f"  baseline: {clean(old.origin)}")
    if case.verdict in FAILING | INCOMPLETE | {"improved", "fixed"} and case.verdict != "missing":
        lines.append(f"  if the new numbers are right: {hint}")
    return "\n".join(
        layout.wrapped(line, indent=f"{_indent(line)}  ", most_lines=_MOST_LINES) for line in lines
    )


def _reasons_lines(
    case: CaseVerdict,
    old: Observation | None,
    new: Observation | None,
    storage: Sequence[str],
) -> Iterator[str]:
    """Yield a line a reason, and below it what it comes from."""
    shown = [reason for reason in case.reasons if reason.verdict != "known_defect"]
    moved = {reason.metric for reason in shown}
    for reason in shown[:_MOST_REASONS]:
        yield f"  {_reason_line(reason)}"
        if reason.since is not None:
            yield from (f"      {line}" for line in _drift_lines(reason, new, storage))
        elif reason.metric.removesuffix(BATCH_SUFFIX) not in moved - {reason.metric}:
            # At batch 32 the modules are those of batch 1.
            yield from (f"      {line}" for line in module_lines(reason, old, new))
    if len(shown) > _MOST_REASONS:
        rest = ", ".join(clean(reason.title) for reason in shown[_MOST_REASONS:])
        yield f"  and {len(shown) - _MOST_REASONS} more: {clean(rest)}"


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" ")))


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


def _drift_lines(reason: Reason, new: Observation | None, storage: Sequence[str]) -> list[str]:
    """Say why the newest baseline did not show it, and how to see the steps."""
    if new is None:
        return []
    case = shlex.quote(clean(new.record.case.id))
    metric = shlex.quote(clean(reason.metric))
    words = ["peft-regress history", f"--case {case}", f"--metric {metric}", "--all", *storage]
    return ["no step was beyond its bound, but they add up; they are shown by", " ".join(words)]
