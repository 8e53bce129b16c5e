"""A comparison as a document, made once: the terminal, GitHub and the page show the same."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding, leading_reason, sort_findings
from peft_regress.gate.verdicts import Reason
from peft_regress.report import document as doc
from peft_regress.report import sentences
from peft_regress.report.layout import PLAIN, STYLE_OF_EXIT, Layout, Row, Table
from peft_regress.report.markdown import MOST_CASES, as_markdown
from peft_regress.report.verdict.cases import budgets_of, remarks
from peft_regress.report.verdict.finding import (
    example_lines,
    finding_details,
    finding_headline,
    suspected_packages,
)
from peft_regress.report.verdict.next_steps import compare_command, next_steps
from peft_regress.text import clean, count_of

MARKER: Final = "<!-- peft-regress -->"
"""The first line of the Markdown, which identifies the comment. It contains nothing from a file."""
LONGEST_BYTES: Final = 60_000
"""GitHub accepts comments of 65,536 characters; the rest is left to the script that posts it."""
_LONGEST_LINE: Final = 400
_LONGEST_VALUE: Final = 60
_LONGEST_NAME: Final = 160
_MOST_BUDGETS: Final = 40
_MOST_ENVIRONMENT_LINES: Final = 8
_MOST_NAME_LINES: Final = 2
_MOST_FOLDED_LINES: Final = 12
_REMEDIES: Final = {
    "missing": "they did not run, or were renamed; if they are gone for good, add `--retire ID` "
    "(or a glob) for each to `accept`",
    "new": "nothing judges them until their numbers are accepted",
    "incomparable": "nothing judges them until the new numbers are accepted",
    "invariant": "once accepted it is a known defect, which fails no later run",
    "training": "nothing judges their scores: compare with the storage whose entry they repeat, or "
    "with runs made with --regress-full",
    "not measured": "nothing judges these until the run is measured again by this version",
}
"""By what an incomplete finding is about, else by its verdict."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a comparison is written."""

    details: bool = True
    """An example of each finding, with the modules behind it."""
    most: int | None = None
    """How many lines a folded list has."""
    all_names: bool = False
    """Whether a terminal names every case, and all budgets."""
    is_away: bool = True
    """Whether the reader is not where the run was made: then the first steps make it again."""
    is_accepted: bool = False
    """Whether the run was accepted since: then there is nothing to type."""


TERMINAL: Final = Extent(details=False, is_away=False)
VERBOSE: Final = Extent(details=False, is_away=False, all_names=True)


def verdict_text(
    comparison: Comparison,
    *,
    layout: Layout = PLAIN,
    verbose: bool = False,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> str:
    """Return what failed, what was not compared, the rest as counts, what to type, the outcome.

    `verbose`: name every case that is otherwise folded. `notes`: sentences before the outcome.
    `problems`: sentences after it on what else fails the run.
    """
    more = [doc.Section(title="", body=tuple(notes))] if notes else []
    outcome = outcome_section(comparison, problems)
    sections = verdict_sections(comparison, VERBOSE if verbose else TERMINAL)
    return doc.as_text([*sections, *more, outcome], layout)


def verdict_markdown(comparison: Comparison) -> str:
    """Return marker, headline, the findings with their rows, what is folded, and what to type.

    For a job's page or a comment on a pull request. If it is longer than GitHub accepts, it says
    less of each finding, and in the end only what changed, by how much and in how many cases.
    """
    outcome, most = outcome_section(comparison), _MOST_FOLDED_LINES
    head = [doc.Section(title=f"peft_regress: {outcome.title}", body=outcome.body, level=2)]
    for extent in (Extent(most=most), Extent(details=False, most=most)):
        sections = verdict_sections(comparison, extent)
        text = _written([*head, *sections])
        if len(text.encode()) <= LONGEST_BYTES:
            return text
        command = clean(compare_command(comparison.invocation), longest=_LONGEST_LINE)
        shown = doc.Code(command)
        words = ("Shortened to the length that GitHub accepts:", shown, "shows everything.")
        head = [head[0], doc.Section(title=words)]
    steps = [section for section in sections if section.title == "what to type:"]
    told = [clean(finding_headline(one), longest=_LONGEST_LINE) for one in comparison.findings]
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    return _written([*head, doc.Section(title="", body=(*told[:most], *more)), *steps])


def _written(sections: list[doc.Section]) -> str:
    return f"{MARKER}\n\n{as_markdown(sections)}\n"


def outcome_section(comparison: Comparison, problems: Iterable[str] = ()) -> doc.Section:
    """Return the headline: what the exit code means, with the counts, and what else fails."""
    strictly = {
        "better than the baseline, not accepted": comparison.unaccepted,
        "with a looser bound or budget, or other operators, than the baseline": comparison.remarked,
    }
    failures = [
        f"FAILED by strictness: {count_of(len(cases), 'case')} {what}"
        for what, cases in strictly.items()
        if cases and comparison.strict
    ]
    return doc.Section(
        title=sentences.outcome_line(comparison),
        body=tuple(doc.Line(sentence, style="bad") for sentence in (*failures, *problems)),
        level=2,
        style=STYLE_OF_EXIT[comparison.lenient_exit_code],
    )


def verdict_sections(comparison: Comparison, extent: Extent) -> list[doc.Section]:
    """Return all but the outcome: findings, what is folded, what was compared, what to type."""
    failing, incomplete, better = sort_findings(comparison.findings, comparison.failing_verdicts)
    commands = next_steps(comparison, failing, incomplete, is_away=extent.is_away)
    steps = () if extent.is_accepted else tuple(commands)
    return [
        *(_failing(at, finding, comparison, extent) for at, finding in enumerate(failing, 1)),
        *(_incomplete(finding, comparison, extent) for finding in incomplete),
        *_folded(
            "better than the baseline", {finding_headline(one): one.cases for one in better}, extent
        ),
        *beside_sections(comparison, extent),
        *_setting(comparison),
        *([doc.Section(title="what to type:", body=steps, level=3)] if steps else []),
    ]


def beside_sections(comparison: Comparison, extent: Extent) -> list[doc.Section]:
    """Return what stands beside the findings: known defects, budgets, remarks."""
    defects = _with_counts(sentences.known_defects(comparison))
    return [
        *_folded("known defects, in the baseline too", defects, extent),
        *_budgets(comparison, extent),
        *_folded("besides", _with_counts(remarks(comparison)), extent),
    ]


def _failing(number: int, finding: Finding, comparison: Comparison, extent: Extent) -> doc.Section:
    why = suspected_packages(finding, comparison)
    leading = [(member.case, leading_reason(finding, member)) for member in finding.members]
    leading.sort(key=lambda one: _reading_order(*one))
    lines = [
        *finding_details(finding, comparison),
        *_without_ratio(finding, {reason.title for _, reason in leading}),
        *([f"why: {why}"] if why else []),
    ]
    return doc.Section(
        title=f"{number}. {clean(finding_headline(finding), longest=_LONGEST_LINE)}",
        body=(
            *(clean(line, longest=_LONGEST_LINE) for line in lines),
            _table(leading),
            *(_example(finding, comparison) if extent.details else ()),
        ),
        level=3,
        style="bad" if finding.is_failing else "open",
    )


def _incomplete(finding: Finding, comparison: Comparison, extent: Extent) -> doc.Section:
    """Return a finding on cases that were not compared, with its remedy."""
    first = finding.first
    about = first.obstacle or first.kind if first else finding.verdict
    remedy = _REMEDIES.get(about, _REMEDIES[finding.verdict])
    remedies = [] if extent.is_accepted else [remedy]
    lines = (*finding_details(finding, comparison), *remedies)
    return doc.Section(
        title=clean(finding_headline(finding), longest=_LONGEST_LINE),
        body=(
            doc.Cases(tuple(map(_named, finding.cases))),
            *(clean(line, longest=_LONGEST_LINE) for line in lines),
        ),
        level=3,
        style="open",
    )


def _folded(
    title: str, found: Mapping[str, Sequence[str]], extent: Extent
) -> Iterator[doc.Section]:
    """Yield sentences with the cases that each is about."""
    if not found:
        return
    most_lines = None if extent.all_names else _MOST_NAME_LINES
    lines: list[doc.Line] = []
    for what, ids in list(found.items())[: extent.most]:
        names = tuple(map(_named, ids))
        lines.append(doc.Line(clean(what, longest=_LONGEST_LINE), most_lines, names))
    if len(found) > len(lines):
        lines.append(doc.Line(f"and {len(found) - len(lines)} more"))
    count = len({one for ids in found.values() for one in ids})
    yield doc.Section(title=f"{title}: {count_of(count, 'case')}", body=tuple(lines), folded=True)


def _example(finding: Finding, comparison: Comparison) -> Iterator[doc.Section]:
    lines = example_lines(finding, comparison)
    if lines:
        text = "\n".join([_named(finding.example.case), *lines])
        title = "An example, with the modules behind it"
        yield doc.Section(title=title, body=(doc.Listing(text),), folded=True, in_text=False)


def _table(reasons: Sequence[tuple[str, Reason]]) -> Table:
    """Return a row for each case and reason; a metric that all share stands in the heading."""
    found = [(case, sentences.reason_cells(reason)) for case, reason in reasons]
    titles = {clean(cells[0], longest=_LONGEST_VALUE) for _, cells in found}
    shared = titles.pop() if len(titles) == 1 else ""
    rows = []
    for case, cells in found:
        metric, *values = (clean(text, longest=_LONGEST_VALUE) for text in cells)
        rows.append(Row.of(_named(case), "" if shared else doc.Code(metric), *values))
    return Table(
        headings=(
            *(f"{shared} of" if shared else "case", "metric"),
            *("baseline", "this run", "change", "bound"),
        ),
        rows=tuple(rows),
        numbers=(2, 3, 4, 5),
        caption="cases of the finding",
        most_rows=MOST_CASES,
    )


def _named(case: str) -> doc.CaseId:
    return doc.CaseId(clean(case, longest=_LONGEST_NAME), case)


def _reading_order(case: str, reason: Reason) -> tuple[str, tuple[tuple[int, str], ...]]:
    """Return the key that sorts rows: by metric, and r4 before r16."""
    parts = re.findall(r"[0-9]+|[^0-9]+", case)
    return reason.title, tuple((len(one) if one[0] in "0123456789" else 0, one) for one in parts)


def _without_ratio(finding: Finding, shown: set[str]) -> list[str]:
    """Name the metrics that have no ratio, because they are new, gone, or were zero."""
    found = {reason.title for reason in finding.reasons if reason.relative_change is None}
    left = sorted(map(clean, found - shown))
    return [f"new, gone, or zero in the baseline: {', '.join(left)}"] if left else []


def _with_counts(found: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {f"{what} in {count_of(len(ids), 'case')}": ids for what, ids in found.items()}


def _budgets(comparison: Comparison, extent: Extent) -> Iterator[doc.Section]:
    """Yield the budgets of cases that are over one; folded, or if asked for, all of them."""
    every = [(case.id, use) for case in comparison.cases for use in case.budgets]
    over = {case.id for case in comparison.cases if case.verdict == "over_budget"}
    if over and not extent.all_names:
        table = budgets_of((one for one in every if one[0] in over), most=_MOST_BUDGETS)
        yield doc.Section(title="over budget:", body=(table,), level=3)
    table = budgets_of(every, most=None if extent.all_names else _MOST_BUDGETS)
    left = len(every) - len(table.rows)
    more = [f"and {left} more, of which less is used"] if left else []
    if every:
        title = "budgets: how much of each is used"
        yield doc.Section(title=title, body=(table, *more), folded=True, in_text=extent.all_names)


def _setting(comparison: Comparison) -> Iterator[doc.Section]:
    """Yield what was compared with what: entries, environments, and how trainings were judged."""
    references, observed = comparison.references, comparison.observed
    pairs = [(references[name], new) for name, new in observed.items() if name in references]
    names = (
        old.run_name + (f", confirmed by {old.confirmed.entry}" if old.confirmed else "")
        for old, _ in pairs
    )
    environments = (
        "; ".join(sentences.version_changes(old.environment, new.environment))
        or "as in the baseline"
        for old, new in pairs
    )
    lines = [
        *_counted("baseline", Counter(clean(one, longest=_LONGEST_LINE) for one in names)),
        *_counted("environment", Counter(environments)),
        *map(doc.Line, trainings(comparison)),
    ]
    if lines:
        yield doc.Section(title="", body=tuple(lines))


def trainings(comparison: Comparison) -> Iterator[str]:
    """Yield what judged the trainings: curves, which are exact, or bounds."""
    about = [remark for case in comparison.cases for remark in case.remarks]
    words = {
        "same curve": "equal to {} bit for bit",
        "rounding only": "differs from {} by rounding only, by its referee in float64",
        "by bounds": "judged by bounds, {}",
    }
    for kind, said in words.items():
        found = Counter(clean(one.text) for one in about if one.kind == kind)
        for text, count in found.items():
            yield f"training of {count_of(count, 'case')}: {said.format(text)}"


def _counted(title: str, found: Mapping[str, int]) -> Iterator[doc.Line]:
    for text, count in found.items():
        cases = f" of {count_of(count, 'case')}" if len(found) > 1 else ""
        yield doc.Line(f"{title}{cases}: {text}", _MOST_ENVIRONMENT_LINES)
