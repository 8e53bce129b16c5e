"""One finding as Markdown: what changed, why, one row for each case, and the rest folded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from peft_regress.gate.attribution import COSTS, explain_metric
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding, Member
from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import METRICS, format_value
from peft_regress.report.markdown_syntax import (
    bullets,
    cell,
    details,
    escape_markdown,
    fenced,
    table,
)
from peft_regress.report.sentences import reason_cells
from peft_regress.report.verdict.finding import (
    example_lines,
    finding_details,
    finding_headline,
    suspected_packages,
)
from peft_regress.report.verdict.finding_order import leading_reason
from peft_regress.text import clean, count_of

_HEADING: Final = ("case", "metric", "old", "new", "change", "bound", "why")
_NUMBERS: Final = (2, 3, 4, 5)
_SHOWN_CASES: Final = 6
_LONGEST_LINE: Final = 300
_LONGEST_VALUE: Final = 60


class Extent(NamedTuple):
    """How much of a finding is written."""

    others: bool = True
    """The other metrics of its cases."""
    modules: bool = True
    example: bool = True
    rows: bool = True


class FindingWriter:
    """Write the findings of one comparison, in several extents."""

    def __init__(self, comparison: Comparison, names: Mapping[str, str]) -> None:
        self.comparison = comparison
        self.names = names
        self.module_behind = functools.cache(self._module_behind)

    def blocks(self, number: int, finding: Finding, extent: Extent) -> Iterator[str]:
        """Yield the blocks of one finding; one of them names every case of it."""
        headline = f"{number}. {clean(finding_headline(finding), longest=_LONGEST_LINE)}"
        yield f"### {escape_markdown(headline)}"
        why = bullets(
            escape_markdown(clean(line, longest=_LONGEST_LINE)) for line in self._about(finding)
        )
        if why:
            yield why
        # One more case is as short as the line that would fold it.
        count = len(finding.members)
        shown = count if count <= _SHOWN_CASES + 1 else _SHOWN_CASES
        yield self._cases(finding, finding.members[:shown], extent)
        if count > shown:
            rest = self._cases(finding, finding.members[shown:], extent)
            yield details(count_of(count - shown, "more case"), rest)
        yield from self._folded(finding, extent)

    def _about(self, finding: Finding) -> list[str]:
        packages = suspected_packages(finding, self.comparison)
        why = [] if packages is None else [f"why: {packages}"]
        return [*finding_details(finding, self.comparison), *why]

    def _module_behind(self, case: str, metric: str) -> str:
        """Return the module with the largest part of a change, and how many more there are."""
        old = self.comparison.references.get(case)
        new = self.comparison.observed.get(case)
        if old is None or new is None or metric not in COSTS:
            return ""
        change = explain_metric(metric, old.record, new.record)
        if not change.shortest:
            return ""
        # Only a change in the same direction as the whole explains it.
        same = [row for row in change.shortest if (row.change > 0) == ((change.change or 0) > 0)]
        row = (same or change.shortest)[0]
        value = format_value(abs(row.change), METRICS[metric].unit)
        changed = f"{clean(row.what)} {'+' if row.change > 0 else '-'}{value}"
        left = len(change.shortest) - 1
        more = f", and {left} more" if left else ""
        module = cell(clean(row.module) or "(no module)")
        return f"{module} {escape_markdown(changed)}{more}"

    def _cases(self, finding: Finding, members: Sequence[Member], extent: Extent) -> str:
        """Return one row for each case, or only the ids if there are no reasons or no room."""
        if not extent.rows or not all(member.reasons for member in members):
            return fenced("\n".join(self.names[member.case] for member in members), "text")
        leading = [(member.case, leading_reason(finding, member)) for member in members]
        rows = [self._row(case, reason, extent) for case, reason in leading]
        return table(_HEADING, rows, numbers=_NUMBERS)

    def _row(self, case: str, reason: Reason, extent: Extent) -> tuple[str, ...]:
        metric, *values = (clean(text, longest=_LONGEST_VALUE) for text in reason_cells(reason))
        why = self.module_behind(case, reason.metric) if extent.modules else ""
        return (cell(self.names[case]), cell(metric), *map(escape_markdown, values), why)

    def _folded(self, finding: Finding, extent: Extent) -> Iterator[str]:
        """Yield the example with its modules, and the other metrics of every case."""
        lines = example_lines(finding, self.comparison) if extent.example else []
        if lines:
            lines.insert(0, self.names[finding.example.case])
            yield details(
                "An example, with the modules behind it", fenced("\n".join(lines), "text")
            )
        others = [
            (member.case, reason)
            for member in finding.members
            for reason in member.reasons
            if reason is not leading_reason(finding, member)
        ]
        if not others:
            return
        metrics = len({reason.title for _, reason in others})
        summary = f"{count_of(metrics, 'more metric')} of these cases"
        if extent.others:
            rows = [self._row(case, reason, extent) for case, reason in others]
            yield details(summary, table(_HEADING, rows, numbers=_NUMBERS))
        elif extent.rows:
            yield f"And {summary}."
