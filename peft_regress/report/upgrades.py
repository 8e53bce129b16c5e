"""What an upgrade or a bisection found: the report, an issue for maintainers, and JSON."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding
from peft_regress.report import document as documents
from peft_regress.report.document import Code, Line, Listing, Section
from peft_regress.report.layout import STYLE_OF_EXIT
from peft_regress.report.sentences import outcome_line, short_verdict, version_changes
from peft_regress.report.verdict import finding as findings
from peft_regress.report.verdict import sections as verdicts
from peft_regress.report.verdict.next_steps import bisection, quoted
from peft_regress.report.verdict.to_json import encode_finding, encode_sides, encode_verdict, fields
from peft_regress.runs.environment import likely_first, suspects_of
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean, count_of
from peft_regress.upgrades.bisect import Bisection, Transition
from peft_regress.upgrades.functions import FoundFunction
from peft_regress.upgrades.reproduction import Reproduction
from peft_regress.upgrades.upgrade import Upgrade

_INTERRUPTED: Final = "not tried, interrupted"


def _finding_section(
    title: str,
    finding: Finding,
    comparison: Comparison,
    package: str | None,
    function: FoundFunction | None,
) -> Section:
    """Return what changed, where, by which package and function, in which cases, and an example."""
    details = findings.finding_details(finding, comparison)
    body: list[Line | Listing] = [Line(line, most_lines=4) for line in details]
    if package:
        body.append(Line(f"which package: {package}", most_lines=2))
    body += _about_function(function, "which function: ")
    body.append(Line(f"cases: {documents.case_set(finding.cases)}", most_lines=6))
    numbers = findings.example_lines(finding, comparison)
    if numbers:
        body.append(Line(f"for example {clean(finding.example.case)}:"))
        body.append(Listing("\n".join(numbers)))
    return Section(title=title, body=tuple(body), level=3, style="strong")


def _script_sections(made: Reproduction) -> Iterator[Section]:
    script = Listing(made.script.rstrip(), "python")
    yield Section(
        title="A script that needs only torch, torchvision and the library:", body=(script,)
    )
    for side, output in made.outputs.items():
        yield Section(title=f"It prints, with {clean(side)}:", body=(Listing(output.rstrip()),))


def upgrade_document(upgrade: Upgrade, scripts: Sequence[Reproduction] = ()) -> list[Section]:
    """Return the outcome, the environment, each finding with its scripts, and what to do."""
    return [*compared_sections(upgrade, scripts), *_closing(upgrade)]


def compared_sections(upgrade: Upgrade, scripts: Sequence[Reproduction] = ()) -> list[Section]:
    """Return the outcome, the environment and each finding."""
    return [
        _heading(upgrade),
        *_findings(upgrade, scripts),
        *_by_baseline(upgrade),
        *verdicts.beside_sections(upgrade.comparison, verdicts.TERMINAL),
    ]


def tried_sections(upgrade: Upgrade) -> list[Section]:
    """Return what follows once single packages were tried: which do it, and what to do."""
    which: list[Line | Listing] = []
    for number, finding in enumerate(upgrade.comparison.findings, start=1):
        if finding not in upgrade.suspected:
            continue
        if upgrade.responsible or upgrade.was_interrupted:
            which.append(Line(f"{number}. {_culprit(finding, upgrade)}", most_lines=2))
        which += _about_function(_function(finding, upgrade), f"{number}. ")
    title = "which package, which function:" if upgrade.functions else "which package:"
    tried = [Section(title=title, body=tuple(which), level=3)] if which else []
    return [*tried, *_closing(upgrade)]


def _about_function(function: FoundFunction | None, before: str = "") -> list[Line | Listing]:
    if function is None:
        return []
    said = Line(f"{before}{clean(function.sentence, longest=900)}", most_lines=6)
    return [said, *([Listing(function.shortened_diff, "diff")] if function.diff else [])]


def _closing(upgrade: Upgrade) -> list[Section]:
    return [
        Section(title="what to do:", body=tuple(advice_on(upgrade)), level=3),
        dataclasses.replace(verdicts.outcome_section(upgrade.comparison), level=0),
    ]


def _heading(upgrade: Upgrade) -> Section:
    changes = []
    for name in likely_first(upgrade.changed):
        old, new = upgrade.changed[name]
        changes.append(clean(f"{name} {old} -> {new}" if old else f"{name} {new} (new)"))
    if upgrade.by_baseline:
        changes.append(f"{' and '.join(map(clean, upgrade.installed))} as in the checkout")
    environment = "; ".join(changes) or "the same packages on both sides"
    asked = " ".join(map(clean, upgrade.requirements))
    return Section(
        title=f"upgrade {asked}: {outcome_line(upgrade.comparison)}",
        body=(
            f"compared with: {clean(upgrade.compared_with, longest=400)}",
            f"environment: {environment}",
            *verdicts.trainings(upgrade.comparison),
            *(f"note: {clean(remark, longest=400)}" for remark in upgrade.remarks),
        ),
        level=2,
        style=STYLE_OF_EXIT[upgrade.comparison.lenient_exit_code],
    )


def _findings(upgrade: Upgrade, scripts: Sequence[Reproduction]) -> Iterator[Section]:
    for number, finding in enumerate(upgrade.comparison.findings, start=1):
        title, package = (
            f"{number}. {findings.finding_headline(finding)}",
            _culprit(finding, upgrade),
        )
        function = _function(finding, upgrade)
        yield _finding_section(title, finding, upgrade.comparison, package, function)
        for made in scripts:
            if made.finding is finding:
                yield from _script_sections(made)


def _function(finding: Finding, upgrade: Upgrade) -> FoundFunction | None:
    if not upgrade.functions or finding not in upgrade.suspected:
        return None
    return upgrade.functions[upgrade.suspected.index(finding)]


def _by_baseline(upgrade: Upgrade) -> Iterator[Section]:
    """Yield what the stored baseline calls worse, although it was so at the commit."""
    references = upgrade.by_baseline.references if upgrade.by_baseline else {}
    for finding in upgrade.since_baseline:
        since = f"since {clean(references[finding.example.case].run_name)}, not by this change"
        cases = Line(f"cases: {documents.case_set(finding.cases)}", most_lines=4)
        title = f"{since}: {findings.finding_headline(finding)}"
        yield Section(title=title, body=(cases,), level=3)


def _culprit(finding: Finding, upgrade: Upgrade) -> str | None:
    """Return which package caused a finding, as far as that is known."""
    if finding not in upgrade.suspected:
        return None
    if upgrade.edited:
        return f"unknown, since {clean(upgrade.edited)}"
    if upgrade.responsible:
        return upgrade.responsible[upgrade.suspected.index(finding)].sentence
    if upgrade.was_interrupted:
        return _INTERRUPTED
    names = upgrade.installed or tuple(upgrade.changed)
    return f"{names[0]}, the only one that changed" if len(names) == 1 else None


def encode_upgrade(upgrade: Upgrade) -> dict[str, Any]:
    """Return `{schema_version, exit_code, counts, environment, findings, cases, ...}`."""
    comparison = upgrade.comparison
    return {
        **encode_verdict(comparison),
        "exit_code": comparison.exit_code,
        "requirements": list(upgrade.requirements),
        "compared_with": upgrade.compared_with,
        "environment": encode_sides("package", upgrade.changed),
        "remarks": list(upgrade.remarks),
        "findings": [
            {
                **encode_finding(finding),
                "which_package": _culprit(finding, upgrade),
                "which_function": _encoded(_function(finding, upgrade)),
            }
            for finding in comparison.findings
        ],
        "since_baseline": [encode_finding(finding) for finding in upgrade.since_baseline],
        "what_to_do": [documents.plain(words) for words in advice_on(upgrade)],
    }


def advice_on(upgrade: Upgrade) -> list[tuple[str, ...]]:
    """Return what a user can do about the findings, each in words and commands."""
    found = upgrade.comparison.findings
    if upgrade.by_baseline and not upgrade.comparison.failing:
        return [("nothing: the change makes nothing worse",)]
    if upgrade.by_baseline:
        _, digest = upgrade.compared_with.partition(",")[0].split()
        meant = "if it is meant, merge it: later changes are compared with it"
        return [("what the change is:", Code(f"git diff {digest}")), (meant,)]
    failing = [finding for finding in found if finding.is_failing]
    advice = [*_about_failing(failing[0], upgrade)] if failing else []
    if failing or any(finding.is_better for finding in found):
        which = "if the new numbers are right" if failing else "it got better"
        saving = ("add", Code("--save run.json"), "and then") if upgrade.saved is None else ()
        saved = quoted(str(upgrade.saved or "run.json"))
        command = Code(f'peft-regress accept {saved} --reason "..."')
        advice.append((f"accept, {which}:", *saving, command))
    if any(finding.cause.strand == "coverage" for finding in found):
        advice.append(("compare what was not compared: add", Code("--base run")))
    return advice or [("nothing: no number changed beyond its bound",)]


def _about_failing(finding: Finding, upgrade: Upgrade) -> Iterator[tuple[str, ...]]:
    if upgrade.edited:
        yield ("compare the packages alone, with the code of today: add", Code("--base run"))
        return
    found = upgrade.responsible and upgrade.responsible[upgrade.suspected.index(finding)].names
    suspects = found or suspects_of(upgrade.changed)
    changed = {name: upgrade.changed[name] for name in suspects if name in upgrade.changed}
    pins = [f"{name}=={old}" for name, (old, _) in changed.items() if old]
    if pins:
        yield (f"pin: stay with {' '.join(map(clean, pins))} until it is settled",)
    is_own = upgrade.comparison.observed[finding.example.case].record.is_own
    script = "" if is_own else ", with a script that runs without this project"
    writing = f"to write an issue for the maintainers{script}"
    yield ("report: add", Code("--summary issue.md"), writing)
    words = bisection(finding, changed)
    if words:
        yield ("find the release:", Code(" ".join(words)))


def bisection_document(
    found: Bisection, scripts: Mapping[int, Sequence[Reproduction]] | None = None
) -> list[Section]:
    """Return each transition with what changes in it and its scripts, then what was tried."""
    sections: list[Section] = []
    for number, transition in enumerate(found.transitions):
        sections += _transition(found, transition)
        for made in (scripts or {}).get(number, ()):
            sections += _script_sections(made)
    settings = found.settings
    if not sections:
        nothing = (
            f"no boundary between {settings.package} {settings.good} and {settings.bad}: "
            f"{settings.metric or 'everything'} of {documents.case_set(found.cases)} is the same "
            "within its bound in the two ends"
        )
        sections.append(Section(title=nothing))
    tried = ", ".join(map(str, found.tried))
    how = "by fine-tuning" if found.trained else "by costs only, without training"
    releases = count_of(len(found.versions), "release")
    title = f"tried {len(found.tried)} of {releases}, {how}: {tried}"
    skipped = (f"skipped {one}: {clean(why, longest=300)}" for one, why in found.skipped.items())
    return [*sections, Section(title=title, body=tuple(skipped))]


def _transition(found: Bisection, transition: Transition) -> Iterator[Section]:
    first, old = f"{found.settings.package} {transition.new}", transition.old
    title = f"{first} is the first release that changes what {old} does"
    if transition.between:
        maybe = ", ".join(map(str, transition.between))
        title = f"{first}, or one of {maybe} before it, changes what {old} does"
    sides = (transition.comparison.references, transition.comparison.observed)
    moved = version_changes(*(next(iter(side.values())).environment for side in sides))
    changed = (f"environment: {'; '.join(moved)}",) if len(moved) > 1 else ()
    yield Section(title=title, body=changed, level=2, style="strong")
    for finding, culprit, function in _with_culprits(found, transition):
        title = f"{short_verdict(finding.verdict)}: {findings.finding_title(finding)}"
        yield _finding_section(title, finding, transition.comparison, culprit, function)


def _with_culprits(
    found: Bisection, transition: Transition
) -> Iterator[tuple[Finding, str | None, FoundFunction | None]]:
    unknown = _INTERRUPTED if found.was_interrupted else None
    for index, finding in enumerate(transition.comparison.findings):
        known, functions = transition.responsible, transition.functions
        package = known[index].sentence if known else unknown
        yield finding, package, functions[index] if functions else None


def _encoded(function: FoundFunction | None) -> dict[str, Any] | None:
    """Return `{sentence, package, units, is_confirmed, places, diff, trials, ...}`."""
    if function is None:
        return None
    return {"sentence": function.sentence, **msgspec.to_builtins(function)}


def encode_bisection(found: Bisection) -> dict[str, Any]:
    """Return `{schema_version, package, good, bad, releases, transitions, ...}`."""
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        **fields(found.settings, "package", "good", "bad", "metric"),
        "cases": list(found.cases),
        "evidence": "fine-tuning" if found.trained else "costs",
        "releases": [str(version) for version in found.versions],
        "tried": [str(version) for version in found.tried],
        "skipped": {str(version): why for version, why in found.skipped.items()},
        "transitions": [
            {
                "last_good": str(one.old),
                "first_bad": str(one.new),
                "untried_between": [str(version) for version in one.between],
                "environment": encode_sides("package", one.changed),
                "findings": [
                    {
                        **encode_finding(finding),
                        "which_package": culprit,
                        "which_function": _encoded(function),
                    }
                    for finding, culprit, function in _with_culprits(found, one)
                ],
            }
            for one in found.transitions
        ],
    }
