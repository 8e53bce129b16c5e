"""The verdict on a run, for a terminal: one table of what fell, by its cause, and what to type."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from peft_regress.gate.findings import find_causes
from peft_regress.report.layout import PLAIN
from peft_regress.report.sentences import (
    environment_lines,
    known_defects,
    outcome_line,
    times_lines,
)
from peft_regress.report.short_names import short_names
from peft_regress.report.verdict.finding import case_set, finding_details, finding_title
from peft_regress.report.verdict.finding_order import leading_reason, sort_findings
from peft_regress.report.verdict.next_steps import accepting, next_steps
from peft_regress.report.verdict.rows import common_widths, reading_order, row_of, rows_text
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from peft_regress.gate.findings import Finding
    from peft_regress.gate.judge import Observation, RunVerdict
    from peft_regress.report.layout import Layout, Style
    from peft_regress.report.verdict.next_steps import Step, Typed

__all__ = ["style_of", "verdict_text"]

_INDENT: Final = "   "
_MOST_NAME_LINES: Final = 2
_MOST_ENVIRONMENT_LINES: Final = 8
_LONGEST_ORIGIN: Final = 400
_REMEDIES: Final = {
    "missing": "they did not run, or were renamed; if they are gone for good, add `--retire ID` "
    "for each (or a glob) to `accept`",
    "new": "nothing judges them until their numbers are accepted",
    "incomparable": "nothing judges them until the new numbers are accepted",
}


def verdict_text(  # noqa: PLR0913  (what is told, and how)
    verdict: RunVerdict,
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    typed: Typed,
    layout: Layout = PLAIN,
    verbose: bool = False,
    strict: bool = False,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> str:
    """Return what fell, what was not compared, the rest as counts, what to type, the outcome.

    verbose: name every case of what is folded. strict: what got better fails, too. notes: what
    else there is to say, before the outcome. problems: what fails the run besides, after it.
    """
    findings = find_causes(verdict.cases, references, observed)
    names = short_names(case.id for case in verdict.cases)
    failing, holes, better = sort_findings(findings, strict=strict)
    most_lines = None if verbose else _MOST_NAME_LINES
    folded = [("better than the baseline:", _better(better))]
    folded += [("known defects, in the baseline too:", _defects(verdict))]
    steps = [*next_steps(failing, references, observed, typed)]
    if failing or holes or better:
        steps.append(accepting(typed))
    blocks = [
        *_failing_blocks(failing, references, observed, names, layout),
        *(_hole_block(finding, names, layout) for finding in holes),
        *(_folded(title, kept, layout, most_lines=most_lines) for title, kept in folded if kept),
        *_setting(references, observed, layout),
        *([_steps_block(steps, layout)] if steps else []),
        *(["\n".join(layout.wrapped(note) for note in notes)] if notes else []),
        _outcome(verdict, layout, problems, strict=strict),
    ]
    return "\n\n".join(blocks)


def _failing_blocks(
    failing: Sequence[Finding],
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    names: Mapping[str, str],
    layout: Layout,
) -> Iterator[str]:
    """Yield each finding with its cause and a row a case: not one is left out."""
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
        head = f"{number}. {_count(finding)}: {finding_title(finding)}"
        style: Style = "bad" if finding.is_failing else "open"
        about = [
            *finding_details(finding),
            *_from_nothing(finding, {row.title for row in rows}),
            f"why: {_why(finding, references, observed)}",
        ]
        yield "\n".join(
            [
                layout.styled(layout.wrapped(head, indent=_INDENT), style),
                *(layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ") for line in about),
                rows_text(rows, layout, common=common),
            ]
        )


def _from_nothing(finding: Finding, told: Collection[str]) -> list[str]:
    """Return the metrics that no ratio tells of, since they came, went, or were zero."""
    found = {
        clean(reason.title)
        for member in finding.members
        for reason in member.reasons
        if reason.relative_change is None
    }
    return [f"from or to nothing: {', '.join(sorted(found - {*told}))}"] if found - {*told} else []


def _count(finding: Finding) -> str:
    return f"{finding.verdict.replace('_', ' ')} in {_cases(len(finding.members))}"


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _why(
    finding: Finding, references: Mapping[str, Observation], observed: Mapping[str, Observation]
) -> str:
    """Return which package did it, as far as the environments can tell."""
    differences = {
        tuple(environment_lines(references[name].environment, observed[name].environment))
        for name in finding.cases
    }
    moved = dict.fromkeys(line for lines in sorted(differences) for line in lines)
    if not moved:
        return "no package changed: the code under test did it"
    if len(differences) == 1 and len(moved) == 1:
        return f"{next(iter(moved))}, the only package that changed"
    return f"one of the {len(moved)} packages that changed (environment, below), or the code itself"


def _hole_block(finding: Finding, names: Mapping[str, str], layout: Layout) -> str:
    told = _count(finding) if finding.example.reasons else f"{len(finding.cases)} {finding.verdict}"
    head = f"{told}: {finding_title(finding)}"
    below = (case_set([names[case] for case in finding.cases]), _REMEDIES[finding.verdict])
    lines = [layout.wrapped(f"{_INDENT}{line}", indent=f"{_INDENT}  ") for line in below]
    return "\n".join([layout.styled(layout.wrapped(head, indent=_INDENT), "open"), *lines])


def _better(findings: Iterable[Finding]) -> dict[str, Sequence[str]]:
    return {f"{_count(finding)}: {finding_title(finding)}": finding.cases for finding in findings}


def _defects(verdict: RunVerdict) -> dict[str, Sequence[str]]:
    return {f"{what} in {_cases(len(ids))}": ids for what, ids in known_defects(verdict).items()}


def _folded(
    title: str, kept: Mapping[str, Sequence[str]], layout: Layout, *, most_lines: int | None
) -> str:
    lines = [layout.wrapped(title)]
    for what, ids in kept.items():
        lines.append(layout.wrapped(f"  {what}", indent="    "))
        lines.append(layout.wrapped(f"    {case_set(ids)}", indent="    ", most_lines=most_lines))
    return "\n".join(lines)


def _setting(
    references: Mapping[str, Observation], observed: Mapping[str, Observation], layout: Layout
) -> Iterator[str]:
    """Yield what was compared with what: entries, environments, and why times were not judged."""
    pairs = [(references[name], new) for name, new in observed.items() if name in references]
    if pairs:
        origins = Counter(clean(old.origin, longest=_LONGEST_ORIGIN) for old, _ in pairs)
        moved = Counter(
            "; ".join(environment_lines(old.environment, new.environment)) for old, new in pairs
        )
        lines = [
            *_counted("baseline", origins),
            *_counted(
                "environment", {text or "as in the baseline": n for text, n in moved.items()}
            ),
        ]
        most = _MOST_ENVIRONMENT_LINES
        yield "\n".join(layout.wrapped(line, most_lines=most) for line in lines)
    untimed = times_lines(references, observed)
    if untimed:
        first, *rest = untimed
        lines = [first, *(f"  {line}" for line in rest)]
        yield "\n".join(layout.wrapped(line, indent="    ") for line in lines)


def _counted(title: str, found: Mapping[str, int]) -> list[str]:
    if len(found) == 1:
        return [f"{title}: {text}" for text in found]
    return [f"{title} of {count} cases: {text}" for text, count in found.items()]


def _steps_block(steps: Iterable[Step], layout: Layout) -> str:
    lines = ["what to type:"]
    for what, words in steps:
        lines.append(layout.wrapped(f"  {what}:", indent="    "))
        lines.append(layout.command(words, indent="    "))
    return "\n".join(lines)


def style_of(verdict: RunVerdict) -> Style:
    """Return how the outcome is told: in the colour of its exit code."""
    styles: dict[int, Style] = {0: "good", 1: "bad"}
    return styles.get(verdict.exit_code, "open")


def _outcome(verdict: RunVerdict, layout: Layout, problems: Iterable[str], *, strict: bool) -> str:
    lines = [layout.styled(layout.wrapped(outcome_line(verdict)), style_of(verdict))]
    better = len(verdict.unaccepted())
    if strict and better:
        told = f"FAILED by strictness: {better} better than the baseline, and nobody has "
        problems = [f"{told}accepted that", *problems]
    return "\n".join([*lines, *(layout.styled(layout.wrapped(one), "bad") for one in problems)])
