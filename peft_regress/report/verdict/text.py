"""The verdict on a run for a terminal: what failed, by its cause, and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from peft_regress.gate.comparison import Comparison
from peft_regress.report.layout import PLAIN, Layout, Style
from peft_regress.report.short_names import short_names
from peft_regress.report.table import table_text
from peft_regress.report.verdict.budgets import budget_table
from peft_regress.report.verdict.finding import case_set, strictness
from peft_regress.report.verdict.rows import common_widths, rows_text
from peft_regress.report.verdict.shown import ShownFinding, ShownVerdict, shown_verdict
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_regress.report.verdict.next_steps import Step

_INDENT: Final = "   "
_MOST_NAME_LINES: Final = 2
_MOST_ENVIRONMENT_LINES: Final = 8


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
    shown = shown_verdict(comparison)
    most_lines = None if verbose else _MOST_NAME_LINES
    better = {finding.headline: finding.cases for finding in shown.of("better")}
    folded: list[tuple[str, Mapping[str, Sequence[str]]]] = [
        ("better than the baseline:", better),
        ("known defects, in the baseline too:", shown.defects),
    ]
    blocks = [
        *_failing_blocks(shown.of("failing"), names, layout),
        *(_incomplete_block(finding, names, layout) for finding in shown.of("incomplete")),
        *(_folded(title, kept, layout, most_lines=most_lines) for title, kept in folded if kept),
        *_budgets(comparison, layout, verbose=verbose),
        *(
            [_folded("besides:", shown.remarks, layout, most_lines=most_lines)]
            if shown.remarks
            else []
        ),
        *_setting(shown, layout),
        *([_steps_block(shown.steps, layout)] if shown.steps else []),
        *(["\n".join(layout.wrapped(note) for note in notes)] if notes else []),
        _outcome(comparison, shown, layout, problems),
    ]
    return "\n\n".join(blocks)


def _failing_blocks(
    failing: Sequence[ShownFinding], names: Mapping[str, str], layout: Layout
) -> Iterator[str]:
    """Yield each finding with its cause and one row for every case."""
    tables = [
        [shown.row._replace(case=clean(names[shown.case])) for shown in finding.rows]
        for finding in failing
    ]
    common = common_widths(tables, layout)
    for number, (finding, rows) in enumerate(zip(failing, tables, strict=True), start=1):
        headline = f"{number}. {finding.headline}"
        style: Style = "bad" if finding.is_failing else "open"
        yield "\n".join(
            [
                layout.styled(layout.wrapped(headline, indent=_INDENT), style),
                *(
                    layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ")
                    for line in finding.about
                ),
                rows_text(rows, layout, common=common),
            ]
        )


def _incomplete_block(finding: ShownFinding, names: Mapping[str, str], layout: Layout) -> str:
    headline = layout.wrapped(finding.headline, indent=_INDENT)
    below = (case_set([names[case] for case in finding.cases]), *finding.about)
    lines = [layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ") for line in below]
    return "\n".join([layout.styled(headline, "open"), *lines])


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


def _setting(shown: ShownVerdict, layout: Layout) -> Iterator[str]:
    """Yield what was compared with what: entries, environments, and why times were not judged."""
    if shown.setting:
        most = _MOST_ENVIRONMENT_LINES
        yield "\n".join(layout.wrapped(line, most_lines=most) for line in shown.setting)
    if shown.times:
        first, *rest = shown.times
        lines = [first, *(f"  {line}" for line in rest)]
        yield "\n".join(layout.wrapped(line, indent="    ") for line in lines)


def _steps_block(steps: Iterable[Step], layout: Layout) -> str:
    lines = ["what to type:"]
    for what, words in steps:
        lines.append(layout.wrapped(f"  {what}:", indent="    "))
        lines.append(layout.command(words, indent="    "))
    return "\n".join(lines)


def _outcome(
    comparison: Comparison, shown: ShownVerdict, layout: Layout, problems: Iterable[str]
) -> str:
    lines = [layout.styled(layout.wrapped(shown.outcome), shown.style)]
    problems = [*strictness(comparison), *problems]
    return "\n".join([*lines, *(layout.styled(layout.wrapped(one), "bad") for one in problems)])
