"""What came of an upgrade, as text, as an issue for a library's maintainers, as JSON."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from peft_regress.records import SCHEMA_VERSION
from peft_regress.report.lines import (
    escape_markdown,
    known_defects,
    outcome_line,
    short_verdict,
    wrapped,
)
from peft_regress.text import clean
from peft_regress.upgrade.finding_report import (
    case_set,
    encode_finding,
    finding_details,
    finding_title,
    reason_text,
    reproduction_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.findings import Finding
    from peft_regress.upgrade.conduct import Upgrade
    from peft_regress.upgrade.reproduce import Reproduction

__all__ = ["encode_upgrade", "upgrade_markdown", "upgrade_text"]

_MOST_DEFECT_LINES: Final = 6
_SUSPECTS: Final = ("peft", "galore-torch", "torch", "torchvision", "transformers")


def upgrade_text(upgrade: Upgrade) -> str:
    """Return headline, environment difference, each finding, and what to do."""
    blocks = ["\n".join(_heading(upgrade))]
    for number, finding in enumerate(upgrade.findings, start=1):
        blocks.append("\n".join(_finding_lines(number, finding, upgrade)))
    defects = known_defects(upgrade.verdict)
    if defects:
        lines = [
            wrapped(f"  {what}: {case_set(ids)} ({len(ids)})", indent="    ", most_lines=3)
            for what, ids in list(defects.items())[:_MOST_DEFECT_LINES]
        ]
        blocks.append("\n".join(["known defects, on both sides:", *lines]))
    blocks.append(
        "\n".join(["what to do:", *(wrapped(f"  {a}", indent="    ") for a in _advice(upgrade))])
    )
    blocks.append(outcome_line(upgrade.verdict))
    return "\n\n".join(blocks)


def _heading(upgrade: Upgrade) -> Iterator[str]:
    yield f"upgrade {' '.join(map(clean, upgrade.requirements))}: {outcome_line(upgrade.verdict)}"
    yield f"  compared with: {clean(upgrade.base_origin)}"
    yield wrapped(f"  environment: {_environment(upgrade)}", indent="    ")
    for remark in upgrade.remarks:
        yield wrapped(f"  note: {clean(remark, longest=400)}", indent="    ")


def _environment(upgrade: Upgrade) -> str:
    return "; ".join(_moves(upgrade)) or "the same packages on both sides"


def _moves(upgrade: Upgrade) -> list[str]:
    ordered = sorted(upgrade.changed, key=lambda name: (name not in _SUSPECTS, name))
    pairs = {name: [one or "absent" for one in upgrade.changed[name]] for name in ordered}
    return [clean(f"{name} {old} -> {new}") for name, (old, new) in pairs.items()]


def _finding_lines(number: int, finding: Finding, upgrade: Upgrade) -> Iterator[str]:
    count = len(finding.members)
    verdict = finding.verdict.replace("_", " ")
    head = f"{number}. {verdict} in {count} {'case' if count == 1 else 'cases'}"
    yield wrapped(f"{head}: {finding_title(finding)}", indent="   ")
    for line in finding_details(finding):
        yield wrapped(f"   {line}", indent="     ", most_lines=4)
    culprit = _culprit(finding, upgrade)
    if culprit:
        yield wrapped(f"   which package: {culprit}", indent="     ")
    yield wrapped(f"   cases: {case_set(finding.cases)}", indent="     ", most_lines=6)
    example = finding.example
    if example.reasons and finding.cause.kind != "invariant":
        yield f"   for example {clean(example.case)}:"
        sides = upgrade.references.get(example.case), upgrade.observed.get(example.case)
        for line in reason_text(example, *sides):
            yield f"     {line}"


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


def _advice(upgrade: Upgrade) -> list[str]:
    """Return the commands that may follow, by what was found."""
    failing = [finding for finding in upgrade.findings if finding.is_failing]
    better = [finding for finding in upgrade.findings if finding.is_better]
    advice = []
    asked = " ".join(shlex.quote(text) for text in upgrade.requirements)
    if failing:
        pins = [
            f"{name}=={pair[0]}"
            for name, pair in upgrade.changed.items()
            if pair[0] and name in _SUSPECTS
        ]
        if pins:
            advice.append(f"pin: stay with {' '.join(map(clean, pins))} until it is settled")
        advice.append(
            f"report: `peft-regress upgrade {asked} --summary issue.md` writes an issue for the "
            "library's maintainers, with a script that runs without this project"
        )
        advice += [f"find the release: `{command}`" for command in _bisections(failing, upgrade)]
    if failing or better:
        run = shlex.quote(str(upgrade.saved)) if upgrade.saved else "run.json"
        first = "" if upgrade.saved else "add `--save run.json`, then "
        which = "if the new numbers are right" if failing else "it got better"
        advice.append(f'accept, {which}: {first}`peft-regress accept {run} --reason "..."`')
    if not advice:
        advice.append("nothing: no number moved beyond its bound")
    return advice


def _bisections(failing: Sequence[Finding], upgrade: Upgrade) -> Iterator[str]:
    for name in _SUSPECTS:
        old, new = upgrade.changed.get(name, (None, None))
        if old and new:
            finding = failing[0]
            metric = finding.cause.what if finding.cause.kind == "costs" else None
            chosen = f" --metric {metric}" if metric else ""
            yield (
                f"peft-regress bisect {name} --good {clean(old)} --bad {clean(new)} "
                f"--case {clean(finding.example.case)}{chosen}"
            )
            return


def upgrade_markdown(upgrade: Upgrade, reproductions: Sequence[Reproduction] = ()) -> str:
    """Return the text of an issue: what moved, in which versions, how to see it, the numbers."""
    asked = " ".join(map(clean, upgrade.requirements))
    title = f"## {escape_markdown(f'{asked}: {outcome_line(upgrade.verdict)}')}"
    blocks = [title, _versions_table(upgrade)]
    blocks += [f"Note: {escape_markdown(clean(remark, longest=400))}" for remark in upgrade.remarks]
    by_finding = {id(made.finding): made for made in reproductions}
    for number, finding in enumerate(upgrade.findings, start=1):
        blocks += _finding_blocks(number, finding, upgrade)
        made = by_finding.get(id(finding))
        if made is not None:
            blocks += reproduction_blocks(made)
    blocks.append("### What to do")
    # A command must be copied as it stands.
    blocks.append("\n".join(f"- {line}" for line in _advice(upgrade)))
    return "\n\n".join(blocks) + "\n"


def _versions_table(upgrade: Upgrade) -> str:
    named = ["python", *_SUSPECTS]
    sides = next(iter(upgrade.references.values())).environment if upgrade.references else {}
    names = [name for name in named if name in sides or name in upgrade.candidate.environment]
    names += [name for name in upgrade.changed if name not in names]
    lines = ["| package | before | after |", "| --- | --- | --- |"]
    for name in names:
        cells = (name, sides.get(name, "absent"), upgrade.candidate.environment.get(name, "absent"))
        lines.append("| " + " | ".join(escape_markdown(clean(cell)) for cell in cells) + " |")
    return "\n".join(lines)


def _finding_blocks(number: int, finding: Finding, upgrade: Upgrade) -> Iterator[str]:
    count = len(finding.members)
    title = escape_markdown(finding_title(finding))
    verdict = finding.verdict.replace("_", " ")
    yield f"### {number}. {verdict} in {count} {'case' if count == 1 else 'cases'}: {title}"
    details = [*finding_details(finding)]
    culprit = _culprit(finding, upgrade)
    if culprit:
        details.append(f"which package: {culprit}")
    details.append(f"cases: {case_set(finding.cases)}")
    yield "\n".join(f"- {escape_markdown(line)}" for line in details)
    example = finding.example
    if example.reasons:
        sides = upgrade.references.get(example.case), upgrade.observed.get(example.case)
        lines = reason_text(example, *sides)
        yield f"For example {escape_markdown(clean(example.case))}:"
        yield "\n".join(["```text", *(line.replace("```", "'''") for line in lines), "```"])


def encode_upgrade(upgrade: Upgrade) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, environment, findings, cases, ...}`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": upgrade.verdict.exit_code,
        "requirements": list(upgrade.requirements),
        "compared_with": upgrade.base_origin,
        "environment": [
            {"package": name, "old": old, "new": new}
            for name, (old, new) in upgrade.changed.items()
        ],
        "remarks": list(upgrade.remarks),
        "counts": dict(upgrade.verdict.counts),
        "findings": [
            {**encode_finding(finding), "which_package": _encode_culprit(finding, upgrade)}
            for finding in upgrade.findings
        ],
        "cases": [
            {"id": case.id, "verdict": case.verdict, "in_words": short_verdict(case)}
            for case in upgrade.verdict.cases
        ],
        "what_to_do": _advice(upgrade),
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
