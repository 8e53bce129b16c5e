"""A comparison as what reports show of it, made once: the terminal and the page render this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.finding_order import leading_reason, sort_findings
from peft_regress.gate.findings import NOT_MEASURED, Finding
from peft_regress.gate.verdicts import Observation, Reason, Verdict
from peft_regress.report.document import plain
from peft_regress.report.sentences import (
    environment_lines,
    known_defects,
    outcome_line,
    reason_cells,
    times_lines,
)
from peft_regress.report.verdict.budgets import budget_table
from peft_regress.report.verdict.document import _reading_order, style_of
from peft_regress.report.verdict.finding import (
    example_lines,
    finding_details,
    finding_headline,
    suspected_packages,
)
from peft_regress.report.verdict.next_steps import Step, is_of_training, next_steps
from peft_regress.report.verdict.remarks import remarks
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from peft_regress.report.layout import Style
    from peft_regress.report.table import Table

Group = Literal["failing", "incomplete", "better"]
"""What a finding means for the run: it fails it, was not compared, or is better."""

_LONGEST_RUN_NAME: Final = 400
_REMEDIES: Final = {
    "missing": "they did not run, or were renamed; if they are gone for good, add `--retire ID` "
    "(or a glob) for each to `accept`",
    "new": "nothing judges them until their numbers are accepted",
    "incomparable": "nothing judges them until the new numbers are accepted",
}
_TRAIN_BOTH: Final = (
    "nothing judges their scores: compare with the storage whose entry they repeat, or with runs "
    "made with --regress-full"
)
_DEFECT_FROM_THE_START: Final = "once accepted it is a known defect, which fails no later run"
_MEASURE_AGAIN: Final = "nothing judges these until the run is measured again by this version"


class Row(NamedTuple):
    """What changed in a case."""

    title: str
    case: str
    cells: tuple[str, str, str, str]


def row_of(case: str, reason: Reason) -> Row:
    """Return the row of one reason of a case."""
    title, *shown = reason_cells(reason)
    old, new, change, bound = shown
    return Row(title, clean(case), (old, new, change, bound))


class ShownRow(NamedTuple):
    """What changed in one case of a finding."""

    case: str
    """Its id, not made safe to show."""
    row: Row


@dataclass(frozen=True, kw_only=True)
class ShownFinding:
    """One finding in words and rows. Strings are clean but for the ids."""

    group: Group
    verdict: Verdict
    is_failing: bool
    """Whether its verdict fails every run, not a strict one alone."""
    headline: str
    about: tuple[str, ...]
    """Where, what changed with it, which package did it; of what was not compared, the remedy."""
    cases: tuple[str, ...]
    rows: tuple[ShownRow, ...] = ()
    """One for each case, if it fails."""
    example: tuple[str, tuple[str, ...]] | None = None
    """The id of the case with the largest change, and its numbers with the modules behind them."""


@dataclass(frozen=True, kw_only=True)
class ShownVerdict:
    """A comparison in words and rows."""

    outcome: str
    """The headline: what the exit code means, with the counts."""
    style: Style
    findings: tuple[ShownFinding, ...]
    """Those that fail, then those that were not compared, then those that are better."""
    defects: Mapping[str, Sequence[str]]
    """What was broken in the baseline too, and the cases."""
    remarks: Mapping[str, Sequence[str]]
    budgets: Table
    """Of the cases that are over theirs."""
    setting: tuple[str, ...]
    """Which entries judge, and which packages differ."""
    times: tuple[str, ...]
    """Why times were not judged."""
    steps: tuple[Step, ...]
    """What to type."""

    def of(self, group: Group) -> tuple[ShownFinding, ...]:
        """Return the findings of one meaning."""
        return tuple(finding for finding in self.findings if finding.group == group)


def shown_verdict(comparison: Comparison) -> ShownVerdict:
    """Return what reports show of a comparison."""
    failing, incomplete, better = sort_findings(comparison)
    return ShownVerdict(
        outcome=outcome_line(comparison),
        style=style_of(comparison),
        findings=(
            *(_failing(finding, comparison) for finding in failing),
            *(_incomplete(finding, comparison) for finding in incomplete),
            *(_better(finding) for finding in better),
        ),
        defects=_defects(comparison),
        remarks={
            f"{what} in {count_of(len(ids), 'case')}": ids
            for what, ids in remarks(comparison).items()
        },
        budgets=budget_table(comparison, over_alone=True),
        setting=tuple(_setting(comparison)),
        times=tuple(map(plain, times_lines(comparison))),
        steps=tuple(next_steps(comparison, failing, incomplete)),
    )


def _failing(finding: Finding, comparison: Comparison) -> ShownFinding:
    leading = sorted(
        ((member.case, leading_reason(finding, member)) for member in finding.members),
        key=lambda one: _reading_order(*one),
    )
    rows = [ShownRow(case, row_of(case, reason)) for case, reason in leading]
    why = suspected_packages(finding, comparison)
    lines = example_lines(finding, comparison)
    return ShownFinding(
        group="failing",
        verdict=finding.verdict,
        is_failing=finding.is_failing,
        headline=finding_headline(finding),
        about=(
            *finding_details(finding, comparison),
            *_without_ratio(finding, {shown.row.title for shown in rows}),
            *([f"why: {why}"] if why else []),
        ),
        cases=finding.cases,
        rows=tuple(rows),
        example=(finding.example.case, tuple(lines)) if lines else None,
    )


def _incomplete(finding: Finding, comparison: Comparison) -> ShownFinding:
    remedy = _REMEDIES[finding.verdict]
    if finding.cause.strand == "invariant":
        remedy = _DEFECT_FROM_THE_START
    elif is_of_training(finding):
        remedy = _TRAIN_BOTH
    elif finding.cause.what == NOT_MEASURED:
        remedy = _MEASURE_AGAIN
    return ShownFinding(
        group="incomplete",
        verdict=finding.verdict,
        is_failing=False,
        headline=finding_headline(finding),
        about=(*finding_details(finding, comparison), remedy),
        cases=finding.cases,
    )


def _better(finding: Finding) -> ShownFinding:
    return ShownFinding(
        group="better",
        verdict=finding.verdict,
        is_failing=False,
        headline=finding_headline(finding),
        about=(),
        cases=finding.cases,
    )


def _without_ratio(finding: Finding, shown: Collection[str]) -> list[str]:
    """Name the metrics that have no ratio, because they are new, gone, or were zero."""
    found = {
        clean(reason.title)
        for member in finding.members
        for reason in member.reasons
        if reason.relative_change is None
    }
    left = sorted(found - {*shown})
    return [f"new, gone, or zero in the baseline: {', '.join(left)}"] if left else []


def _defects(comparison: Comparison) -> dict[str, Sequence[str]]:
    defects = known_defects(comparison)
    return {f"{what} in {count_of(len(ids), 'case')}": ids for what, ids in defects.items()}


def _setting(comparison: Comparison) -> Iterator[str]:
    references = comparison.references
    pairs = [
        (references[name], new) for name, new in comparison.observed.items() if name in references
    ]
    if pairs:
        run_names = Counter(clean(_named(old), longest=_LONGEST_RUN_NAME) for old, _ in pairs)
        environments = Counter(
            "; ".join(environment_lines(old.environment, new.environment)) or "as in the baseline"
            for old, new in pairs
        )
        yield from _counted("baseline", run_names)
        yield from _counted("environment", environments)
    yield from _trainings(comparison)


def _named(old: Observation) -> str:
    return old.run_name + (f", confirmed by {old.confirmed.entry}" if old.confirmed else "")


def _trainings(comparison: Comparison) -> Iterator[str]:
    """Yield what judged the trainings: curves, which are exact, or bounds."""
    remarks = [remark for case in comparison.cases for remark in case.remarks]
    equal = Counter(clean(one.text) for one in remarks if one.kind == "same curve")
    bounded = Counter(clean(one.text) for one in remarks if one.kind == "by bounds")
    for name, count in equal.items():
        yield f"training of {count_of(count, 'case')}: equal to {name} bit for bit"
    for why, count in bounded.items():
        yield f"training of {count_of(count, 'case')}: judged by bounds, {why}"


def _counted(title: str, found: Mapping[str, int]) -> list[str]:
    if len(found) == 1:
        return [f"{title}: {text}" for text in found]
    return [f"{title} of {count_of(count, 'case')}: {text}" for text, count in found.items()]
