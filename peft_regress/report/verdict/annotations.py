"""A verdict as GitHub's annotations of the tests' lines: `::error file=...,line=...::...`.

GitHub reads them at the beginning of a line of the log, and shows ten of each level for each step.
The cases of one parametrized test share a line, and so an annotation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import narrowed
from peft_regress.gate.verdicts import CaseVerdict
from peft_regress.report.sentences import short_names, short_verdict
from peft_regress.report.verdict.finding import finding_headline, package_changes
from peft_regress.report.verdict.remarks import strict_lines
from peft_regress.text import clean, count_of

Level = Literal["error", "warning"]

_MOST: Final = 10
"""How many annotations of one level GitHub shows for each step; it drops the rest."""
_MOST_FINDINGS: Final = 5
_MOST_IDS: Final = 20
_LONGEST_LINE: Final = 300


class SourceLine(NamedTuple):
    """The line of a test in the repository."""

    path: str
    """Relative to the repository; empty for a file outside it."""
    line: int | None
    """Counted from 0, as pytest does."""


_NOWHERE: Final = SourceLine("", None)


def verdict_annotations(
    comparison: Comparison, source_lines: Mapping[str, SourceLine]
) -> list[str]:
    """Return one annotation for each line and level: errors for red cases, else warnings.

    `source_lines`: the line of each case's test, by case id.
    """
    errors = comparison.red
    warnings = [case for case in comparison.unaccepted if case not in errors]
    levels: tuple[tuple[Level, Sequence[CaseVerdict]], ...]
    levels = (("error", errors), ("warning", warnings))
    lines = []
    for level, cases in levels:
        groups: dict[SourceLine, list[CaseVerdict]] = defaultdict(list)
        for case in cases:
            groups[source_lines.get(case.id, _NOWHERE)].append(case)
        largest = sorted(groups.items(), key=lambda pair: -len(pair[1]))
        if len(largest) > _MOST:
            rest = [case for _, group in largest[_MOST - 1 :] for case in group]
            largest[_MOST - 1 :] = [(_NOWHERE, rest)]
        for line, group in largest:
            message = "\n".join(_message(comparison, group))
            lines.append(annotation(level, message, line=line, title=_title(group)))
    return lines


def annotation(
    level: Level, message: str, *, line: SourceLine | None = None, title: str = "peft_regress"
) -> str:
    """Return one annotation on one line, escaped as GitHub's toolkit does."""
    properties = {"title": title}
    if line is not None and line.path:
        number = {} if line.line is None else {"line": str(line.line + 1)}
        properties = {"file": line.path, **number, **properties}
    joined = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {joined}::{_data(message)}"


def _title(cases: Sequence[CaseVerdict]) -> str:
    # A case that fails only since the run is strict has a verdict that says nothing.
    counts = Counter(
        "failed by strictness"
        if case.verdict in {"unchanged", "known_defect"}
        else short_verdict(case.verdict)
        for case in cases
    )
    return f"peft_regress: {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _message(comparison: Comparison, cases: Sequence[CaseVerdict]) -> Iterator[str]:
    """Yield the findings in some cases, the packages that changed, and the ids."""
    findings = narrowed(comparison.findings, {case.id for case in cases})
    for finding in findings[:_MOST_FINDINGS]:
        yield clean(finding_headline(finding), longest=_LONGEST_LINE)
    if findings[_MOST_FINDINGS:]:
        yield f"and {count_of(len(findings) - _MOST_FINDINGS, 'more finding')}"
    if comparison.strict:
        for line in strict_lines(comparison, {case.id for case in cases}):
            yield clean(line, longest=_LONGEST_LINE)
    changes = package_changes(comparison, (case.id for case in cases))
    if changes:
        yield clean(f"packages: {'; '.join(changes)}", longest=_LONGEST_LINE)
    yield from short_names(case.id for case in cases[:_MOST_IDS]).values()
    if cases[_MOST_IDS:]:
        yield f"and {count_of(len(cases) - _MOST_IDS, 'more case')}"


def _data(text: str) -> str:
    """Escape a message: after a line break another command could begin."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property, which a comma or a colon would end, too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
