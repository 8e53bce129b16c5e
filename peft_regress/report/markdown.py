"""A verdict as GitHub-flavoured Markdown, for a job summary or a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.report.lines import (
    environment_lines,
    known_defects,
    outcome_line,
    reason_cells,
    short_verdict,
    times_lines,
)
from peft_regress.report.markdown_syntax import escape_markdown
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft_regress.gate import Observation, RunVerdict

__all__ = ["verdict_markdown"]

_LONGEST_IDS = 400


def verdict_markdown(
    verdict: RunVerdict,
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    hint: str,
) -> str:
    """Return headline, the rows that moved, the environment difference and what to type."""
    lines = ["## peft_regress", "", f"**{outcome_line(verdict)}**", ""]
    rows = [
        (case, reason)
        for case in verdict.cases
        if case.verdict not in {"unchanged", "known_defect"}
        for reason in (case.reasons or (None,))
        if reason is None or reason.verdict != "known_defect"
    ]
    if rows:
        lines += [
            "| case | verdict | metric | old | new | change | bound |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for case, reason in rows:
            cells = ("",) * 5 if reason is None else reason_cells(reason)
            named = (clean(case.id), short_verdict(case), *cells)
            lines.append("| " + " | ".join(escape_markdown(cell) for cell in named) + " |")
        lines.append("")
    for what, ids in known_defects(verdict).items():
        shown = clean(" ".join(ids), longest=_LONGEST_IDS)
        lines += [escape_markdown(f"Known defect: {what} ({len(ids)}): {shown}"), ""]
    # A dict keeps the order that `environment_lines` chose.
    moved = dict.fromkeys(
        line
        for name, new in observed.items()
        if name in references
        for line in environment_lines(references[name].environment, new.environment)
    )
    if moved:
        lines += ["Environment: " + escape_markdown("; ".join(moved)), ""]
    untimed = times_lines(references, observed)
    if untimed:
        lines += ["T" + "; ".join(untimed).removeprefix("t") + ".", ""]
    if verdict.exit_code:
        lines += [f"If the new numbers are right: {hint}", ""]
    return "\n".join(lines)
