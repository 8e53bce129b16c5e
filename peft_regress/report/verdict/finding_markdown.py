"""One finding as Markdown: what moved, why, a row a case, and the rest folded."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from peft_regress.gate.attribution import COSTS, explain_metric
from peft_regress.gate.judge import FAILING
from peft_regress.metrics import BATCH_SUFFIX, METRICS, format_value
from peft_regress.report.markdown_syntax import (
    bullets,
    cell,
    details,
    escape_markdown,
    fenced,
    table,
)
from peft_regress.report.sentences import environment_lines, reason_cells
from peft_regress.report.verdict.finding import example_lines, finding_details, finding_title
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from peft_regress.gate.findings import Finding, Member
    from peft_regress.gate.judge import Observation, Reason

__all__ = ["Extent", "Sides", "cases_word", "finding_blocks", "packages_of"]

_HEADING: Final = ("case", "metric", "old", "new", "change", "bound", "why")
_NUMBERS: Final = (2, 3, 4, 5)
_SHOWN_CASES: Final = 6
_LONGEST_LINE: Final = 300
_LONGEST_VALUE: Final = 60
_MOST_PACKAGES: Final = 6


class Extent(NamedTuple):
    """How much is said of a finding: what its cases have besides, and why; all their rows."""

    others: bool = True
    modules: bool = True
    example: bool = True
    rows: bool = True


class Sides:
    """Both sides of a comparison, and what is behind a change, looked up once."""

    def __init__(
        self,
        references: Mapping[str, Observation],
        observed: Mapping[str, Observation],
        names: Mapping[str, str],
    ) -> None:
        self.references = references
        self.observed = observed
        self.names = names
        self.why = functools.cache(self._why)
        self.packages = packages_of(names, self)

    def _why(self, case: str, metric: str) -> str:
        """Return the module with the largest part of a change, and how many more there are."""
        old, new = self.references.get(case), self.observed.get(case)
        if old is None or new is None or metric not in COSTS:
            return ""
        change = explain_metric(metric, old.record, new.record)
        if not change.shortest:
            return ""
        # What went the way of the whole: a tensor that others took the place of explains nothing.
        same = [row for row in change.shortest if (row.change > 0) == ((change.change or 0) > 0)]
        row = (same or change.shortest)[0]
        value = format_value(abs(row.change), METRICS[metric].unit)
        moved = f"{clean(row.what)} {'+' if row.change > 0 else '-'}{value}"
        left = len(change.shortest) - 1
        more = f", and {left} more" if left else ""
        module = cell(clean(row.module) or "(no module)")
        return f"{module} {escape_markdown(moved)}{more}"


def packages_of(cases: Iterable[str], sides: Sides) -> list[str]:
    """Return 'peft 0.21.2 -> 0.14.0' for each package that differs for one of the cases."""
    pairs = {
        (id(old.environment), id(new.environment)): (old.environment, new.environment)
        for name in cases
        if (old := sides.references.get(name)) and (new := sides.observed.get(name))
    }
    # A dict keeps the order that `environment_lines` chose.
    return list(dict.fromkeys(line for pair in pairs.values() for line in environment_lines(*pair)))


def cases_word(count: int) -> str:
    """Return '1 case' or '2 cases'."""
    return f"{count:,} case" if count == 1 else f"{count:,} cases"


def finding_blocks(number: int, finding: Finding, sides: Sides, extent: Extent) -> Iterator[str]:
    """Return the blocks of one finding; every case of it is named in one of them."""
    verdict = finding.verdict.replace("_", " ")
    title = clean(finding_title(finding), longest=_LONGEST_LINE)
    head = f"{number}. {verdict} in {cases_word(len(finding.members))}"
    yield f"### {escape_markdown(f'{head}: {title}')}"
    why = bullets(_why_lines(finding, sides))
    if why:
        yield why
    # One more case is as short as the line that would fold it.
    count = len(finding.members)
    shown = count if count <= _SHOWN_CASES + 1 else _SHOWN_CASES
    yield _cases(finding, finding.members[:shown], sides, extent)
    if count > shown:
        rest = _cases(finding, finding.members[shown:], sides, extent)
        yield details(f"{cases_word(count - shown)} more", rest)
    yield from _folded(finding, sides, extent)


def _cases(finding: Finding, members: Sequence[Member], sides: Sides, extent: Extent) -> str:
    """Return a row a case, or the ids where there is nothing to say of them, or no room for it."""
    if not extent.rows or not all(member.reasons for member in members):
        return fenced("\n".join(sides.names[member.case] for member in members), "text")
    leading = [(member.case, _leading(finding, member)) for member in members]
    rows = [_row(case, reason, sides, extent) for case, reason in leading]
    return table(_HEADING, rows, numbers=_NUMBERS)


def _why_lines(finding: Finding, sides: Sides) -> Iterator[str]:
    for line in finding_details(finding):
        yield escape_markdown(clean(line, longest=_LONGEST_LINE))
    moved = packages_of(finding.cases, sides)
    if len(moved) == 1:
        yield f"packages: **{escape_markdown(moved[0])}**, the only one that changed"
    elif moved and moved != sides.packages:
        named = "; ".join(moved[:_MOST_PACKAGES])
        more = f"; and {len(moved) - _MOST_PACKAGES} more" if moved[_MOST_PACKAGES:] else ""
        yield f"packages: {escape_markdown(named)}{more}"
    elif not moved and any(
        name in sides.references.keys() & sides.observed.keys() for name in finding.cases
    ):
        yield "packages: as in the baseline, so that the code under test moved it"


def _leading(finding: Finding, member: Member) -> Reason:
    """Return what tells a member's change best: what the finding is named by, or what fails."""
    named = {finding.cause.what, f"{finding.cause.what}{BATCH_SUFFIX}"}
    failing = [reason for reason in member.reasons if reason.verdict in FAILING]
    candidates = failing or list(member.reasons)
    return next((reason for reason in candidates if reason.metric in named), candidates[0])


def _row(case: str, reason: Reason, sides: Sides, extent: Extent) -> tuple[str, ...]:
    metric, *values = (clean(text, longest=_LONGEST_VALUE) for text in reason_cells(reason))
    why = sides.why(case, reason.metric) if extent.modules else ""
    return (cell(sides.names[case]), cell(metric), *map(escape_markdown, values), why)


def _folded(finding: Finding, sides: Sides, extent: Extent) -> Iterator[str]:
    """Return the example with its modules, and the other metrics of every case."""
    lines = example_lines(finding, sides.references, sides.observed) if extent.example else []
    if lines:
        lines.insert(0, sides.names[finding.example.case])
        yield details("An example, with the modules behind it", fenced("\n".join(lines), "text"))
    others = [
        (member.case, reason)
        for member in finding.members
        for reason in member.reasons
        if reason is not _leading(finding, member)
    ]
    if not others:
        return
    metrics = len({reason.title for _, reason in others})
    summary = f"{metrics} more {'metric' if metrics == 1 else 'metrics'} of these cases"
    if extent.others:
        rows = [_row(case, reason, sides, extent) for case, reason in others]
        yield details(summary, table(_HEADING, rows, numbers=_NUMBERS))
    elif extent.rows:
        yield f"And {summary}."
