"""What came of an upgrade, as text, as an issue for a library's maintainers, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peft_regress.environments.upgrade.advice import advice_on
from peft_regress.environments.upgrade.reproduction_report import reproduction_blocks
from peft_regress.report.layout import PLAIN
from peft_regress.report.markdown_syntax import code_span, escape_markdown, fenced
from peft_regress.report.sentences import known_defects, outcome_line
from peft_regress.report.verdict.finding import (
    case_set,
    encode_finding,
    example_lines,
    finding_details,
    finding_headline,
    strictness,
)
from peft_regress.report.verdict.text import style_of
from peft_regress.report.verdict.to_json import encode_case
from peft_regress.runs.environment import SUSPECTS
from peft_regress.runs.schema import SCHEMA_VERSION
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.environments.reproduction.reproduce import Reproduction
    from peft_regress.environments.upgrade.upgrade import Upgrade
    from peft_regress.gate.findings import Finding
    from peft_regress.report.layout import Layout

__all__ = ["encode_upgrade", "upgrade_markdown", "upgrade_text"]

_MOST_DEFECT_LINES: Final = 6


def upgrade_text(upgrade: Upgrade, layout: Layout = PLAIN) -> str:
    """Return headline, environment difference, each finding, and what to do."""
    blocks = ["\n".join(_heading(upgrade, layout))]
    for number, finding in enumerate(upgrade.comparison.findings, start=1):
        blocks.append("\n".join(_finding_lines(number, finding, upgrade, layout)))
    defects = known_defects(upgrade.comparison)
    if defects:
        lines = [
            layout.wrapped(f"  {what}: {case_set(ids)} ({len(ids)})", indent="    ", most_lines=3)
            for what, ids in list(defects.items())[:_MOST_DEFECT_LINES]
        ]
        blocks.append("\n".join(["known defects, on both sides:", *lines]))
    advice = (layout.wrapped(f"  {line}", indent="    ") for line in _advice_lines(upgrade))
    blocks.append("\n".join(["what to do:", *advice]))
    outcome = layout.styled(
        layout.wrapped(outcome_line(upgrade.comparison)), style_of(upgrade.comparison)
    )
    blocks.append("\n".join([outcome, *map(layout.wrapped, strictness(upgrade.comparison))]))
    return "\n\n".join(blocks)


def _heading(upgrade: Upgrade, layout: Layout) -> Iterator[str]:
    asked = " ".join(map(clean, upgrade.requirements))
    head = layout.wrapped(f"upgrade {asked}: {outcome_line(upgrade.comparison)}")
    yield layout.styled(head, style_of(upgrade.comparison))
    yield layout.wrapped(
        f"  compared with: {clean(upgrade.base_origin, longest=400)}", indent="    "
    )
    yield layout.wrapped(f"  environment: {_environment(upgrade)}", indent="    ")
    for remark in upgrade.remarks:
        yield layout.wrapped(f"  note: {clean(remark, longest=400)}", indent="    ")


def _advice_lines(upgrade: Upgrade) -> Iterator[str]:
    for parts in advice_on(upgrade):
        shown = (f"`{part}`" if index % 2 else part for index, part in enumerate(parts))
        yield " ".join(filter(None, shown))


def _environment(upgrade: Upgrade) -> str:
    return "; ".join(_moves(upgrade)) or "the same packages on both sides"


def _moves(upgrade: Upgrade) -> list[str]:
    ordered = sorted(upgrade.changed, key=lambda name: (name not in SUSPECTS, name))
    pairs = {name: [one or "absent" for one in upgrade.changed[name]] for name in ordered}
    return [clean(f"{name} {old} -> {new}") for name, (old, new) in pairs.items()]


def _finding_lines(
    number: int, finding: Finding, upgrade: Upgrade, layout: Layout
) -> Iterator[str]:
    head = f"{number}. {finding_headline(finding)}"
    yield layout.styled(layout.wrapped(head, indent="   "), "strong")
    for line in finding_details(finding, upgrade.comparison):
        yield layout.wrapped(f"   {line}", indent="     ", most_lines=4)
    culprit = _culprit(finding, upgrade)
    if culprit:
        yield layout.wrapped(f"   which package: {culprit}", indent="     ")
    yield layout.wrapped(f"   cases: {case_set(finding.cases)}", indent="     ", most_lines=6)
    numbers = example_lines(finding, upgrade.comparison)
    if numbers:
        yield layout.wrapped(f"   for example {clean(finding.example.case)}:", indent="     ")
        yield from (layout.wrapped(f"     {line}", indent="       ") for line in numbers)


def _culprit(finding: Finding, upgrade: Upgrade) -> str | None:
    """Return which package does it, as far as that is a question and has an answer."""
    if finding not in upgrade.suspected:
        return None
    if upgrade.culprits:
        return upgrade.culprits[upgrade.suspected.index(finding)].sentence
    return (
        f"{next(iter(upgrade.changed))}, the only one that changed"
        if len(upgrade.changed) == 1
        else None
    )


def upgrade_markdown(upgrade: Upgrade, reproductions: Sequence[Reproduction] = ()) -> str:
    """Return the text of an issue: what moved, in which versions, how to see it, the numbers."""
    asked = " ".join(map(clean, upgrade.requirements))
    title = f"## {escape_markdown(f'{asked}: {outcome_line(upgrade.comparison)}')}"
    blocks = [title, _versions_table(upgrade)]
    blocks += [f"Note: {escape_markdown(clean(remark, longest=400))}" for remark in upgrade.remarks]
    by_finding = {id(made.finding): made for made in reproductions}
    for number, finding in enumerate(upgrade.comparison.findings, start=1):
        blocks += _finding_blocks(number, finding, upgrade)
        made = by_finding.get(id(finding))
        if made is not None:
            blocks += reproduction_blocks(made)
    blocks.append("### What to do")
    blocks.append("\n".join(_advice_markdown(upgrade)))
    blocks += [escape_markdown(line) for line in strictness(upgrade.comparison)]
    return "\n\n".join(blocks) + "\n"


def _advice_markdown(upgrade: Upgrade) -> Iterator[str]:
    for parts in advice_on(upgrade):
        # A command must be copied as it stands.
        shown = (
            code_span(part) if index % 2 else escape_markdown(part)
            for index, part in enumerate(parts)
        )
        yield f"- {' '.join(filter(None, shown))}"


def _versions_table(upgrade: Upgrade) -> str:
    named = ["python", *SUSPECTS]
    sides = (
        next(iter(upgrade.comparison.references.values())).environment
        if upgrade.comparison.references
        else {}
    )
    names = [name for name in named if name in sides or name in upgrade.candidate.environment]
    names += [name for name in upgrade.changed if name not in names]
    lines = ["| package | before | after |", "| --- | --- | --- |"]
    for name in names:
        cells = (name, sides.get(name, "absent"), upgrade.candidate.environment.get(name, "absent"))
        lines.append("| " + " | ".join(escape_markdown(clean(cell)) for cell in cells) + " |")
    return "\n".join(lines)


def _finding_blocks(number: int, finding: Finding, upgrade: Upgrade) -> Iterator[str]:
    yield f"### {number}. {escape_markdown(finding_headline(finding))}"
    details = [*finding_details(finding, upgrade.comparison)]
    culprit = _culprit(finding, upgrade)
    if culprit:
        details.append(f"which package: {culprit}")
    details.append(f"cases: {case_set(finding.cases)}")
    yield "\n".join(f"- {escape_markdown(line)}" for line in details)
    numbers = example_lines(finding, upgrade.comparison)
    if numbers:
        yield f"For example {escape_markdown(clean(finding.example.case))}:"
        yield fenced("\n".join(numbers), "text")


def encode_upgrade(upgrade: Upgrade) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, environment, findings, cases, ...}`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": upgrade.comparison.exit_code,
        "requirements": list(upgrade.requirements),
        "compared_with": upgrade.base_origin,
        "environment": [
            {"package": name, "old": old, "new": new}
            for name, (old, new) in upgrade.changed.items()
        ],
        "remarks": list(upgrade.remarks),
        "counts": upgrade.comparison.counts,
        "findings": [
            {**encode_finding(finding), "which_package": _encode_culprit(finding, upgrade)}
            for finding in upgrade.comparison.findings
        ],
        "cases": [encode_case(case) for case in upgrade.comparison.cases],
        "what_to_do": list(_advice_lines(upgrade)),
    }


def _encode_culprit(finding: Finding, upgrade: Upgrade) -> dict[str, Any] | None:
    if finding not in upgrade.suspected or not upgrade.culprits:
        return None
    found = upgrade.culprits[upgrade.suspected.index(finding)]
    return {
        "alone": list(found.alone),
        "not_alone": list(found.innocent),
        "untried": dict(found.untried),
        "sentence": found.sentence,
    }
