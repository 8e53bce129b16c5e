"""What an upgrade changes: the report, an issue for a library's maintainers, and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from peft_regress.gate.findings import Finding
from peft_regress.report.document import Code, Section, plain
from peft_regress.report.layout import Row, Table
from peft_regress.report.sentences import outcome_line
from peft_regress.report.verdict.document import (
    TERMINAL,
    beside_sections,
    outcome_section,
    style_of,
)
from peft_regress.report.verdict.next_steps import bisection, quoted
from peft_regress.report.verdict.to_json import encode_case, encode_finding, encode_fronts
from peft_regress.runs.environment import SUSPECTS
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of
from peft_regress.upgrades.finding_report import finding_section, reproduction_sections
from peft_regress.upgrades.reproduction.reproduce import Reproduction
from peft_regress.upgrades.upgrade import Upgrade


def upgrade_document(
    upgrade: Upgrade,
    scripts: Sequence[Reproduction] | None = None,
) -> list[Section]:
    """Return the outcome, the environment, each finding, and what to do.

    With `scripts` it is an issue for a library's maintainers: scripts that show the findings, and
    the versions of all packages that matter.
    """
    return [
        *_heading(upgrade, for_issue=scripts is not None),
        *_findings(upgrade, scripts or ()),
        *beside_sections(upgrade.comparison, TERMINAL),
        Section(title="what to do:", body=tuple(_advice(upgrade)), level=3),
        dataclasses.replace(outcome_section(upgrade.comparison), level=0),
    ]


def _heading(upgrade: Upgrade, *, for_issue: bool) -> Iterator[Section]:
    asked = " ".join(map(clean, upgrade.requirements))
    remarks = (f"note: {clean(remark, longest=400)}" for remark in upgrade.remarks)
    environment = "; ".join(_changes(upgrade)) or "the same packages on both sides"
    yield Section(
        title=f"upgrade {asked}: {outcome_line(upgrade.comparison)}",
        body=(
            f"compared with: {clean(upgrade.compared_with, longest=400)}",
            _versions(upgrade) if for_issue else f"environment: {environment}",
            *remarks,
        ),
        level=2,
        style=style_of(upgrade.comparison),
    )


def _findings(upgrade: Upgrade, scripts: Sequence[Reproduction]) -> Iterator[Section]:
    by_finding = {id(made.finding): made for made in scripts}
    for number, finding in enumerate(upgrade.comparison.findings, start=1):
        verdict = finding.verdict.replace("_", " ")
        yield finding_section(
            f"{number}. {verdict} in {count_of(len(finding.members), 'case')}",
            finding,
            upgrade.comparison,
            package=_culprit(finding, upgrade),
        )
        made = by_finding.get(id(finding))
        if made is not None:
            yield from reproduction_sections(made)


def _advice(upgrade: Upgrade) -> Iterator[tuple[str, ...]]:
    for parts in advice_on(upgrade):
        yield tuple(Code(part) if index % 2 else part for index, part in enumerate(parts))


def _changes(upgrade: Upgrade) -> list[str]:
    ordered = sorted(upgrade.changed, key=lambda name: (name not in SUSPECTS, name))
    pairs = {name: [one or "not recorded" for one in upgrade.changed[name]] for name in ordered}
    return [clean(f"{name} {old} -> {new}") for name, (old, new) in pairs.items()]


def _versions(upgrade: Upgrade) -> Table:
    before = (
        next(iter(upgrade.comparison.references.values())).environment
        if upgrade.comparison.references
        else {}
    )
    after = upgrade.candidate.environment
    names = [name for name in ("python", *SUSPECTS) if name in before or name in after]
    names += [name for name in upgrade.changed if name not in names]
    rows = (
        Row(
            cells=(
                clean(name),
                *(clean(side.get(name, "not recorded")) for side in (before, after)),
            )
        )
        for name in names
    )
    return Table(headings=("package", "before", "after"), rows=tuple(rows))


def _culprit(finding: Finding, upgrade: Upgrade) -> str | None:
    """Return which package caused a finding, as far as that is known."""
    if finding not in upgrade.suspected:
        return None
    if upgrade.edited:
        return f"unknown, since {clean(upgrade.edited)}"
    if upgrade.responsible:
        return upgrade.responsible[upgrade.suspected.index(finding)].sentence
    names = upgrade.installed or tuple(upgrade.changed)
    return f"{names[0]}, the only one that changed" if len(names) == 1 else None


def encode_upgrade(upgrade: Upgrade) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, environment, findings, cases, ...}`."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "exit_code": upgrade.comparison.exit_code,
        "requirements": list(upgrade.requirements),
        "compared_with": upgrade.compared_with,
        "environment": [
            {"package": name, "old": old, "new": new}
            for name, (old, new) in upgrade.changed.items()
        ],
        "remarks": list(upgrade.remarks),
        "counts": upgrade.comparison.counts,
        "repeats": len(upgrade.comparison.repeating),
        "findings": [
            {**encode_finding(finding), "which_package": _encode_culprit(finding, upgrade)}
            for finding in upgrade.comparison.findings
        ],
        "cases": [encode_case(case) for case in upgrade.comparison.cases],
        **encode_fronts(upgrade.comparison),
        "what_to_do": [plain(words) for words in _advice(upgrade)],
    }


def _encode_culprit(finding: Finding, upgrade: Upgrade) -> dict[str, Any] | None:
    if finding not in upgrade.suspected or not upgrade.responsible:
        return None
    found = upgrade.responsible[upgrade.suspected.index(finding)]
    return {
        "alone": list(found.alone),
        "together": list(found.together),
        "not_alone": list(found.without_effect),
        "untried": dict(found.untried),
        "sentence": found.sentence,
    }


Advice = tuple[str, ...]
"""Words and commands alternate, words first."""


def advice_on(upgrade: Upgrade) -> list[Advice]:
    """Return what a user can do about the findings."""
    failing = [finding for finding in upgrade.comparison.findings if finding.is_failing]
    better = [finding for finding in upgrade.comparison.findings if finding.is_better]
    advice = [*_about_failing(failing, upgrade)] if failing else []
    if failing or better:
        which = "if the new numbers are right" if failing else "it got better"
        advice.append(_accepting(f"accept, {which}:", upgrade))
    if any(finding.cause.strand == "coverage" for finding in upgrade.comparison.findings):
        advice.append(("compare what was not compared: add", "--base run"))
    return advice or [("nothing: no number changed beyond its bound",)]


def _about_failing(failing: list[Finding], upgrade: Upgrade) -> Iterator[Advice]:
    if upgrade.edited:
        yield ("compare the packages alone, with the code of today: add", "--base run")
        return
    pins = [
        f"{name}=={upgrade.changed[name][0]}"
        for name in SUSPECTS
        if name in upgrade.changed and upgrade.changed[name][0]
    ]
    if pins:
        yield (f"pin: stay with {' '.join(map(clean, pins))} until it is settled",)
    yield (
        "report: add",
        "--summary issue.md",
        "to write an issue for the maintainers, with a script that runs without this project",
    )
    words = bisection(failing[0], upgrade.changed)
    if words:
        yield ("find the release:", " ".join(words))


def _accepting(words: str, upgrade: Upgrade) -> Advice:
    if upgrade.saved is None:
        command = 'peft-regress accept run.json --reason "..."'
        return (f"{words} add", "--save run.json", "and then", command)
    return (words, f'peft-regress accept {quoted(str(upgrade.saved))} --reason "..."')
