"""What a bisection found: the report, an issue for a library's maintainers, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from packaging.version import Version

from peft_regress.report.document import Section, case_set
from peft_regress.report.sentences import environment_lines
from peft_regress.report.verdict.to_json import encode_finding
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of
from peft_regress.upgrades.bisect import Bisection, Transition
from peft_regress.upgrades.finding_report import finding_section, reproduction_sections
from peft_regress.upgrades.reproduction.reproduce import Reproduction

_LONGEST_WHY: Final = 300


def bisection_document(
    found: Bisection, scripts: Mapping[int, Sequence[Reproduction]] | None = None
) -> list[Section]:
    """Return each transition with what changes in it, then what was tried.

    `scripts` show the findings of a transition, by its number, in an issue for maintainers.
    """
    sections: list[Section] = []
    for number, transition in enumerate(found.transitions):
        sections += _transition(found, transition)
        for made in (scripts or {}).get(number, ()):
            sections += reproduction_sections(made)
    title, *skipped = _tried(found)
    return [
        *(sections or [Section(title=_nothing(found))]),
        Section(title=title, body=tuple(skipped)),
    ]


def encode_bisection(found: Bisection) -> dict[str, Any]:
    """Return `{schema_version, package, good, bad, releases, transitions, ...}`."""
    settings = found.settings
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "package": settings.package,
        "good": settings.good,
        "bad": settings.bad,
        "metric": settings.metric,
        "cases": list(found.cases),
        "evidence": "fine-tuning" if found.trained else "costs",
        "releases": [str(version) for version in found.versions],
        "tried": [str(version) for version in found.tried],
        "skipped": {str(version): why for version, why in found.skipped.items()},
        "repeats": {str(one): dict(cases) for one, cases in found.repeated.items()},
        "transitions": [_encode_transition(one) for one in found.transitions],
    }


def _encode_transition(one: Transition) -> dict[str, Any]:
    culprits = one.responsible or (None,) * len(one.comparison.findings)
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


def _transition(found: Bisection, transition: Transition) -> Iterator[Section]:
    changed = [_environment(transition)] if len(transition.changed) > 1 else []
    if found.trained:
        changed += _repeated(found, (transition.old, transition.new))
    title = _headline(found, transition)
    yield Section(title=title, body=tuple(changed), level=2, style="strong")
    culprits = transition.responsible or (None,) * len(transition.comparison.findings)
    for finding, culprit in zip(transition.comparison.findings, culprits, strict=True):
        yield finding_section(
            finding.verdict.replace("_", " "),
            finding,
            transition.comparison,
            package=culprit.sentence if culprit else None,
        )


def _nothing(found: Bisection) -> str:
    settings = found.settings
    what = settings.metric or "everything"
    where = "any two neighbouring releases" if settings.every else "the two ends"
    return (
        f"no boundary between {settings.package} {settings.good} and {settings.bad}: {what} of "
        f"{case_set(found.cases)} is the same within its bound in {where}"
    )


def _tried(found: Bisection) -> Iterator[str]:
    tried = ", ".join(map(str, found.tried))
    how = "by fine-tuning" if found.trained else "by costs only, without training"
    releases = count_of(len(found.versions), "release")
    yield f"tried {len(found.tried)} of {releases}, {how}: {tried}"
    yield from _repeated(found, found.tried)
    for version, why in found.skipped.items():
        yield f"skipped {version}: {clean(why, longest=_LONGEST_WHY)}"


def _repeated(found: Bisection, versions: Iterable[Version]) -> Iterator[str]:
    """Say which releases repeat the training of another one."""
    for version in versions:
        for source, count in Counter(found.repeated.get(version, {}).values()).items():
            yield (
                f"{found.settings.package} {version}: repeats the training of {clean(source)} in "
                f"{count_of(count, 'case')}: scores are those of there"
            )
