"""What a bisection found, as text, as an issue for a library's maintainers, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peft_regress.environments.upgrade.reproduction_report import reproduction_blocks
from peft_regress.report.layout import PLAIN
from peft_regress.report.markdown_syntax import escape_markdown, fenced
from peft_regress.report.sentences import environment_lines
from peft_regress.report.verdict.finding import (
    case_set,
    encode_finding,
    example_lines,
    finding_details,
    finding_title,
)
from peft_regress.runs.schema import SCHEMA_VERSION
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peft_regress.environments.reproduction.reproduce import Reproduction
    from peft_regress.environments.upgrade.bisect import Bisection, Transition
    from peft_regress.gate.findings import Finding
    from peft_regress.report.layout import Layout

__all__ = ["bisection_markdown", "bisection_text", "encode_bisection"]

_LONGEST_WHY: Final = 300


def bisection_text(found: Bisection, layout: Layout = PLAIN) -> str:
    """Return each transition with what changes in it, and what was tried."""
    blocks = ["\n".join(_transition_lines(found, one, layout)) for one in found.transitions]
    if not blocks:
        blocks = [layout.wrapped(_nothing(found))]
    blocks.append("\n".join(layout.wrapped(line, indent="  ") for line in _tried(found)))
    return "\n\n".join(blocks)


def bisection_markdown(
    found: Bisection, reproductions: Mapping[int, Sequence[Reproduction]]
) -> str:
    """Return the text of an issue; `reproductions` are by the number of the transition."""
    blocks = []
    for number, transition in enumerate(found.transitions):
        blocks.append(f"## {escape_markdown(_headline(found, transition))}")
        if len(transition.changed) > 1:
            blocks.append(escape_markdown(_environment(transition)))
        for index, finding in enumerate(transition.comparison.findings):
            blocks += _finding_blocks(finding, transition, index)
        for made in reproductions.get(number, ()):
            blocks += reproduction_blocks(made)
    if not found.transitions:
        blocks.append(escape_markdown(_nothing(found)))
    blocks.append("\n".join(f"- {escape_markdown(line)}" for line in _tried(found)))
    return "\n\n".join(blocks) + "\n"


def encode_bisection(found: Bisection) -> dict[str, Any]:
    """Return `{schema_version, package, good, bad, releases, transitions, ...}`."""
    settings = found.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "package": settings.package,
        "good": settings.good,
        "bad": settings.bad,
        "metric": settings.metric,
        "cases": list(found.cases),
        "evidence": "fine-tuning" if found.trained else "costs",
        "releases": [str(version) for version in found.versions],
        "tried": [str(version) for version in found.tried],
        "skipped": {str(version): why for version, why in found.skipped.items()},
        "transitions": [_encode_transition(one) for one in found.transitions],
    }


def _encode_transition(one: Transition) -> dict[str, Any]:
    culprits = one.culprits or (None,) * len(one.comparison.findings)
    return {
        "last_good": str(one.old),
        "first_bad": str(one.new),
        "untried_between": [str(version) for version in one.between],
        "environment": [
            {"package": name, "old": old, "new": new} for name, (old, new) in one.changed.items()
        ],
        "findings": [
            {**encode_finding(finding), "which_package": culprit and culprit.sentence}
            for finding, culprit in zip(one.comparison.findings, culprits, strict=True)
        ],
    }


def _headline(found: Bisection, transition: Transition) -> str:
    package = found.settings.package
    first = f"{package} {transition.new}"
    if transition.between:
        maybe = ", ".join(map(str, transition.between))
        return f"{first}, or one of {maybe} before it, changes what {transition.old} does"
    return f"{first} is the first release that changes what {transition.old} does"


def _environment(transition: Transition) -> str:
    before, after = (
        next(iter(side.values())).environment
        for side in (transition.comparison.references, transition.comparison.observed)
    )
    return f"environment: {'; '.join(environment_lines(before, after))}"


def _transition_lines(found: Bisection, transition: Transition, layout: Layout) -> Iterator[str]:
    yield layout.styled(layout.wrapped(_headline(found, transition)), "strong")
    if len(transition.changed) > 1:
        yield layout.wrapped(f"  {_environment(transition)}", indent="    ")
    for index, finding in enumerate(transition.comparison.findings):
        verdict = finding.verdict.replace("_", " ")
        yield layout.wrapped(f"  {verdict}: {finding_title(finding)}", indent="    ")
        for line in finding_details(finding, transition.comparison):
            yield layout.wrapped(f"    {line}", indent="      ", most_lines=4)
        if transition.culprits:
            culprit = transition.culprits[index].sentence
            yield layout.wrapped(f"    which package: {culprit}", indent="      ")
        yield layout.wrapped(f"    cases: {case_set(finding.cases)}", indent="      ", most_lines=6)
        numbers = example_lines(finding, transition.comparison)
        yield from (layout.wrapped(f"      {line}", indent="        ") for line in numbers)


def _finding_blocks(finding: Finding, transition: Transition, index: int) -> Iterator[str]:
    verdict = finding.verdict.replace("_", " ")
    yield f"### {escape_markdown(f'{verdict}: {finding_title(finding)}')}"
    details = [*finding_details(finding, transition.comparison)]
    if transition.culprits:
        details.append(f"which package: {transition.culprits[index].sentence}")
    details.append(f"cases: {case_set(finding.cases)}")
    yield "\n".join(f"- {escape_markdown(line)}" for line in details)
    numbers = example_lines(finding, transition.comparison)
    if numbers:
        yield fenced("\n".join(numbers), "text")


def _nothing(found: Bisection) -> str:
    settings = found.settings
    what = settings.metric or "anything"
    where = "any two neighbours" if settings.every else "the two ends"
    return (
        f"no boundary: between {settings.package} {settings.good} and {settings.bad} {what} of "
        f"{case_set(found.cases)} is the same, to its bound, in {where}"
    )


def _tried(found: Bisection) -> Iterator[str]:
    tried = ", ".join(map(str, found.tried))
    how = "by fine-tuning" if found.trained else "by costs alone, without training"
    yield f"tried {len(found.tried)} of {len(found.versions)} releases, {how}: {tried}"
    for version, why in found.skipped.items():
        yield f"skipped {version}: {clean(why, longest=_LONGEST_WHY)}"
