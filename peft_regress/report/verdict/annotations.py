"""A verdict as GitHub's annotations: `::error file=...,line=...::...`, on the tests' lines.

GitHub reads them from the log where they stand at a line's beginning, and shows ten of each level
a step. Cases of one parametrized test share a line, and so an annotation.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from peft_regress.gate.findings import find_causes
from peft_regress.gate.judge import FAILING, INCOMPLETE, UNACCEPTED
from peft_regress.report.sentences import environment_lines
from peft_regress.report.short_names import short_names
from peft_regress.report.verdict.finding import finding_title
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peft_regress.gate.judge import CaseVerdict, Observation, RunVerdict

__all__ = ["Level", "Place", "annotation", "verdict_annotations"]

Level = Literal["error", "warning"]

_MOST: Final = 10
"""What GitHub shows of one level and step; what is more it drops."""
_MOST_FINDINGS: Final = 5
_MOST_IDS: Final = 20
_LONGEST_LINE: Final = 300


class Place(NamedTuple):
    """Where a test stands: a file of the repository, and its line, counted from 0 as pytest does.

    The path is empty where it is in no file of the repository.
    """

    path: str
    line: int | None


def verdict_annotations(
    verdict: RunVerdict,
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    places: Mapping[str, Place],
    *,
    strict: bool = False,
) -> list[str]:
    """Return a line a test and level: what got worse or was not compared, what got better."""
    groups: dict[tuple[Level, Place], list[CaseVerdict]] = defaultdict(list)
    for case in verdict.cases:
        level = _level(case, strict=strict)
        if level is not None:
            groups[level, places.get(case.id, Place("", None))].append(case)
    lines = []
    levels: tuple[Level, ...] = ("error", "warning")
    for level in levels:
        mine = [(place, cases) for (one, place), cases in groups.items() if one == level]
        mine.sort(key=lambda pair: -len(pair[1]))
        if len(mine) > _MOST:
            rest = [case for _, cases in mine[_MOST - 1 :] for case in cases]
            mine[_MOST - 1 :] = [(Place("", None), rest)]
        for place, cases in mine:
            message = "\n".join(_message(cases, references, observed))
            lines.append(annotation(level, message, place=place, title=_title(cases)))
    return lines


def annotation(
    level: Level, message: str, *, place: Place | None = None, title: str = "peft_regress"
) -> str:
    """Return one annotation on one line, escaped as GitHub's toolkit does."""
    properties = {"title": title}
    if place is not None and place.path:
        line = {} if place.line is None else {"line": str(place.line + 1)}
        properties = {"file": place.path, **line, **properties}
    told = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {told}::{_data(message)}"


def _level(case: CaseVerdict, *, strict: bool) -> Level | None:
    if case.verdict in FAILING | INCOMPLETE:
        return "error"
    if case.verdict in UNACCEPTED:
        return "error" if strict else "warning"
    return None


def _title(cases: Sequence[CaseVerdict]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for case in cases:
        counts[case.verdict.replace("_", " ")] += 1
    return f"peft_regress: {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _message(
    cases: Sequence[CaseVerdict],
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
) -> Iterator[str]:
    """Return the findings of some cases, the packages that moved, and the ids."""
    findings = find_causes(cases, references, observed)
    for finding in findings[:_MOST_FINDINGS]:
        count = len(finding.members)
        head = f"{finding.verdict.replace('_', ' ')} in {count} {'case' if count == 1 else 'cases'}"
        yield clean(f"{head}: {finding_title(finding)}", longest=_LONGEST_LINE)
    if findings[_MOST_FINDINGS:]:
        yield f"and {len(findings) - _MOST_FINDINGS} more findings"
    moved = dict.fromkeys(
        line
        for case in cases
        if (old := references.get(case.id)) and (new := observed.get(case.id))
        for line in environment_lines(old.environment, new.environment)
    )
    if moved:
        yield clean(f"packages: {'; '.join(moved)}", longest=_LONGEST_LINE)
    yield from short_names(case.id for case in cases[:_MOST_IDS]).values()
    if cases[_MOST_IDS:]:
        yield f"and {len(cases) - _MOST_IDS} more cases"


def _data(text: str) -> str:
    """Escape a message: a line's end would let another command begin."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property, which a comma or a colon would end besides."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
