"""The verdict on a run for a terminal: what failed, by its cause, and what to type."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from peft_regress.gate.verdicts import FAILING
from peft_regress.report.layout import PLAIN
from peft_regress.report.sentences import (
    environment_lines,
    known_defects,
    outcome_line,
    times_lines,
)
from peft_regress.report.short_names import short_names
from peft_regress.report.table import table_text
from peft_regress.report.verdict.budgets import budget_table
from peft_regress.report.verdict.finding import (
    case_set,
    finding_details,
    finding_headline,
    strictness,
    suspected_packages,
)
from peft_regress.report.verdict.finding_order import leading_reason, sort_findings
from peft_regress.report.verdict.next_steps import (
    accepting,
    first_steps,
    is_of_computation,
    next_steps,
    training,
)
from peft_regress.report.verdict.remarks import remarks
from peft_regress.report.verdict.rows import common_widths, reading_order, row_of, rows_text
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from peft_regress.gate.comparison import Comparison
    from peft_regress.gate.findings import Finding
    from peft_regress.report.layout import Layout, Style
    from peft_regress.report.verdict.next_steps import Step

_INDENT: Final = "   "
_MOST_NAME_LINES: Final = 2
_MOST_ENVIRONMENT_LINES: Final = 8
_LONGEST_RUN_NAME: Final = 400
_REMEDIES: Final = {
    "missing": "they did not run, or were renamed; if they are gone for good, add `--retire ID` "
    "(or a glob) for each to `accept`",
    "new": "nothing judges them until their numbers are accepted",
    "incomparable": "nothing judges them until the new numbers are accepted",
}
_TRAIN_BOTH: Final = (
    "nothing judges what a training would show: compare runs that trained them, made without "
    "--regress-quick or --quick"
)


def verdict_text(
    comparison: Comparison,
    *,
    layout: Layout = PLAIN,
    verbose: bool = False,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> str:
    """Return what failed, what was not compared, the rest as counts, what to type, the outcome.

    `verbose`: name every case that is otherwise folded. `notes`: sentences before the outcome.
    `problems`: sentences after it on what else fails the run.
    """
    names = short_names(case.id for case in comparison.cases)
    failing, incomplete, better = sort_findings(comparison)
    most_lines = None if verbose else _MOST_NAME_LINES
    folded: list[tuple[str, Mapping[str, Sequence[str]]]] = [
        ("better than the baseline:", {finding_headline(one): one.cases for one in better}),
        ("known defects, in the baseline too:", _defects(comparison)),
    ]
    steps = [*next_steps(failing, comparison), *training(incomplete, comparison)]
    only = comparison.invocation.only
    if only is None and comparison.observed and not comparison.references:
        steps += first_steps(comparison)
    elif comparison.can_be_accepted:
        steps.append(accepting(comparison))
    blocks = [
        *_failing_blocks(failing, comparison, names, layout),
        *(_incomplete_block(finding, names, layout) for finding in incomplete),
        *(_folded(title, kept, layout, most_lines=most_lines) for title, kept in folded if kept),
        *_budgets(comparison, layout, verbose=verbose),
        *_remarks(comparison, layout, most_lines=most_lines),
        *_setting(comparison, layout),
        *([_steps_block(steps, layout)] if steps else []),
        *(["\n".join(layout.wrapped(note) for note in notes)] if notes else []),
        _outcome(comparison, layout, problems),
    ]
    return "\n\n".join(blocks)


def _failing_blocks(
    failing: Sequence[Finding], comparison: Comparison, names: Mapping[str, str], layout: Layout
) -> Iterator[str]:
    """Yield each finding with its cause and one row for every case."""
    tables = [
        sorted(
            (
                row_of(names[member.case], leading_reason(finding, member))
                for member in finding.members
            ),
            key=reading_order,
        )
        for finding in failing
    ]
    common = common_widths(tables, layout)
    for number, (finding, rows) in enumerate(zip(failing, tables, strict=True), start=1):
        headline = f"{number}. {finding_headline(finding)}"
        style: Style = "bad" if finding.is_failing else "open"
        about = [
            *finding_details(finding, comparison),
            *_without_ratio(finding, {row.title for row in rows}),
            *([f"why: {why}"] if (why := suspected_packages(finding, comparison)) else []),
        ]
        yield "\n".join(
            [
                layout.styled(layout.wrapped(headline, indent=_INDENT), style),
                *(layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ") for line in about),
                rows_text(rows, layout, common=common),
            ]
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


def _incomplete_block(finding: Finding, names: Mapping[str, str], layout: Layout) -> str:
    headline = layout.wrapped(finding_headline(finding), indent=_INDENT)
    remedy = _TRAIN_BOTH if is_of_computation(finding) else _REMEDIES[finding.verdict]
    below = (case_set([names[case] for case in finding.cases]), remedy)
    lines = [layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ") for line in below]
    return "\n".join([layout.styled(headline, "open"), *lines])


def _defects(comparison: Comparison) -> dict[str, Sequence[str]]:
    defects = known_defects(comparison)
    return {f"{what} in {count_of(len(ids), 'case')}": ids for what, ids in defects.items()}


def _folded(
    title: str, kept: Mapping[str, Sequence[str]], layout: Layout, *, most_lines: int | None
) -> str:
    lines = [layout.wrapped(title)]
    for what, ids in kept.items():
        lines.append(layout.wrapped(f"  {what}", indent="    "))
        lines.append(layout.wrapped(f"    {case_set(ids)}", indent="    ", most_lines=most_lines))
    return "\n".join(lines)


def _budgets(comparison: Comparison, layout: Layout, *, verbose: bool) -> Iterator[str]:
    """Yield the used shares of the cases that are over their budgets; of all cases if verbose."""
    table = budget_table(comparison, over_alone=not verbose)
    if table.rows:
        yield f"budgets:\n{table_text(table, layout, indent='  ')}"


def _remarks(comparison: Comparison, layout: Layout, *, most_lines: int | None) -> Iterator[str]:
    found = remarks(comparison)
    if found:
        titled = {f"{what} in {count_of(len(ids), 'case')}": ids for what, ids in found.items()}
        yield _folded("besides:", titled, layout, most_lines=most_lines)


def _setting(comparison: Comparison, layout: Layout) -> Iterator[str]:
    """Yield what was compared with what: entries, environments, and why times were not judged."""
    references = comparison.references
    pairs = [
        (references[name], new) for name, new in comparison.observed.items() if name in references
    ]
    if pairs:
        run_names = Counter(clean(old.run_name, longest=_LONGEST_RUN_NAME) for old, _ in pairs)
        environments = Counter(
            "; ".join(environment_lines(old.environment, new.environment)) or "as in the baseline"
            for old, new in pairs
        )
        lines = [*_counted("baseline", run_names), *_counted("environment", environments)]
        most = _MOST_ENVIRONMENT_LINES
        yield "\n".join(layout.wrapped(line, most_lines=most) for line in lines)
    untimed = times_lines(comparison)
    if untimed:
        first, *rest = untimed
        lines = [first, *(f"  {line}" for line in rest)]
        yield "\n".join(layout.wrapped(line, indent="    ") for line in lines)


def _counted(title: str, found: Mapping[str, int]) -> list[str]:
    if len(found) == 1:
        return [f"{title}: {text}" for text in found]
    return [f"{title} of {count_of(count, 'case')}: {text}" for text, count in found.items()]


def _steps_block(steps: Iterable[Step], layout: Layout) -> str:
    lines = ["what to type:"]
    for what, words in steps:
        lines.append(layout.wrapped(f"  {what}:", indent="    "))
        lines.append(layout.command(words, indent="    "))
    return "\n".join(lines)


def style_of(comparison: Comparison) -> Style:
    """Return the style of the outcome, by its exit code."""
    styles: dict[int, Style] = {0: "good", 1: "bad"}
    if FAILING & comparison.left_out.keys():
        styles[0] = "open"
    return styles.get(comparison.lenient_exit_code, "open")


def _outcome(comparison: Comparison, layout: Layout, problems: Iterable[str]) -> str:
    lines = [layout.styled(layout.wrapped(outcome_line(comparison)), style_of(comparison))]
    problems = [*strictness(comparison), *problems]
    return "\n".join([*lines, *(layout.styled(layout.wrapped(one), "bad") for one in problems)])
