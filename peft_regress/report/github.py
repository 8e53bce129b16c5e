"""What GitHub Actions reads: annotations of the tests' lines, its log, the summary of a step.

Annotations stand at the beginning of a line of the log, `::error file=...,line=...::...`; GitHub
shows ten of each level for each step. The cases of one parametrized test share a line, and so an
annotation.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from peft_regress.files import append_bytes, write_atomic
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import narrowed
from peft_regress.gate.verdicts import CaseVerdict
from peft_regress.report.sentences import short_names, short_verdict
from peft_regress.report.verdict.cases import strict_lines
from peft_regress.report.verdict.finding import finding_headline, package_changes
from peft_regress.text import clean, count_of, printable, visible

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


_COMMAND: Final = re.compile(r"^(?P<blanks>[^\S\n]*)::|##\[", re.MULTILINE)
"""What the runner takes for a command: `::error::` at the start of a line, `##[error]` anywhere."""


def is_github() -> bool:
    """Return whether this is a step of GitHub Actions, whose log may contain annotations."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def in_log(text: str, *, styles: bool = False) -> str:
    """Return lines of text as they may stand in a log, wherever their strings come from.

    Whatever is printed passes through here, but data and annotations. Control characters are
    escaped; `styles` may stay. In a step of GitHub Actions a blank breaks up what the runner would
    take for a command.
    """
    text = visible(text, styles=styles)
    if not is_github():
        return text
    return _COMMAND.sub(
        lambda found: "## [" if found["blanks"] is None else f"{found['blanks']}: :", text
    )


def line_in_log(text: str) -> str:
    """Return a message as one line that may stand in a log."""
    return in_log(printable(text))


def line_in_repository(path: str, line: int | None, *, base: Path) -> SourceLine:
    """Return where a test stands in the checkout; `path` may be relative to `base`.

    A file elsewhere is none that GitHub knows.
    """
    checkout = Path(os.environ.get("GITHUB_WORKSPACE") or base)
    full = Path(os.path.normpath(base / path))
    is_inside = full.is_relative_to(checkout)
    path = full.relative_to(checkout).as_posix() if is_inside else ""
    return SourceLine(path, line if is_inside else None)


def write_summary(path: Path, text: str) -> None:
    """Write a summary, or append it if the file is that of the step, which other commands share."""
    of_step = os.environ.get("GITHUB_STEP_SUMMARY")
    is_of_step = of_step is not None and os.path.realpath(path) == os.path.realpath(of_step)
    (append_bytes if is_of_step else write_atomic)(path, text.encode())
