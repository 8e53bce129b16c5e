"""A verdict as GitHub-flavoured Markdown, for a job's page or a comment on a pull request.

If it is longer than GitHub accepts, it says less of each regression. It names every case as long as
the ids fit: those of some 2,000 cases do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from peft_regress.gate.comparison import Comparison
from peft_regress.report.document import Section, as_markdown
from peft_regress.report.markdown_syntax import bullets, code_span, details, escape_markdown, fenced
from peft_regress.report.sentences import known_defects, outcome_line, short_verdict, times_lines
from peft_regress.report.short_names import short_names
from peft_regress.report.verdict.budgets import budget_table, has_budgets
from peft_regress.report.verdict.finding import finding_headline, package_changes, strictness
from peft_regress.report.verdict.finding_markdown import Extent, FindingWriter
from peft_regress.report.verdict.finding_order import sort_findings
from peft_regress.report.verdict.next_steps import accept_command
from peft_regress.report.verdict.remarks import remarks_lines
from peft_regress.report.verdict.reproducing import compare_command, reproducing_commands
from peft_regress.text import clean, count_of

MARKER: Final = "<!-- peft-regress -->"
"""The first line, which identifies the comment. It contains nothing from a file."""
LONGEST_BYTES: Final = 60_000
"""GitHub accepts comments of 65,536 characters; the rest is left to the script that posts it."""

_EXTENTS: Final = (
    Extent(),
    Extent(modules=False),
    Extent(modules=False, others=False),
    Extent(modules=False, others=False, example=False),
    Extent(modules=False, others=False, example=False, rows=False),
)
_NAME_LENGTHS: Final = (160, 80, 40, 24)
_MOST_LINES: Final = 12
_MOST_PACKAGES: Final = 4
_MOST_BUDGETS: Final = 40
_LONGEST_LINE: Final = 400


def verdict_markdown(comparison: Comparison) -> str:
    """Return marker, headline, the findings with their rows, what is folded, and what to type."""
    page = _Page(comparison)
    for extent in _EXTENTS:
        text = page.text(extent)
        if _fits(text):
            return text
    for longest in _NAME_LENGTHS:
        text = page.ids_alone(longest)
        if _fits(text):
            return text
    return page.as_many_ids_as_fit(_NAME_LENGTHS[-1])


def _fits(text: str) -> bool:
    return len(text.encode()) <= LONGEST_BYTES


class _Page:
    """One comparison, written in several extents."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.ids = [case.id for case in comparison.cases]
        self.names = short_names(self.ids)
        self.packages = package_changes(comparison, self.ids)
        self.writer = FindingWriter(comparison, self.names)
        failing, incomplete, self.better = sort_findings(comparison)
        self.findings = failing + incomplete

    def text(self, extent: Extent) -> str:
        """Return the whole page."""
        blocks = list(self._head())
        if extent != _EXTENTS[0]:
            blocks.append(self._shortened())
        for number, finding in enumerate(self.findings, start=1):
            blocks += self.writer.blocks(number, finding, extent)
        blocks += self._budgets()
        blocks += self._better()
        blocks += self._remarks()
        blocks += self._environment()
        blocks += self._quiet()
        return _joined([*blocks, *self._what_to_type()])

    def ids_alone(self, longest: int) -> str:
        """Return the page with only the ids of cases by verdict."""
        names = short_names(self.ids, longest=longest)
        blocks = [*self._head(), self._shortened()]
        for name, ids in self._red().items():
            blocks.append(f"### {name}: {count_of(len(ids), 'case')}")
            blocks.append(fenced("\n".join(names[one] for one in ids), "text"))
        return _joined([*blocks, *self._what_to_type()])

    def as_many_ids_as_fit(self, longest: int) -> str:
        """Return the same page, counting the ids that do not fit."""
        names = short_names(self.ids, longest=longest)
        frame = [[*self._head(), self._shortened()], self._what_to_type()]
        room = LONGEST_BYTES - sum(len(_joined(blocks).encode()) for blocks in frame)
        blocks = []
        for name, ids in self._red().items():
            heading = f"### {name}: {count_of(len(ids), 'case')}"
            room -= len(heading) + 200
            shown: list[str] = []
            for one in ids:
                room -= len(names[one].encode()) + 1
                if room < 0:
                    break
                shown.append(names[one])
            left = len(ids) - len(shown)
            blocks += [heading, fenced("\n".join(shown), "text")] if shown else [heading]
            blocks += (
                [f"And {count_of(left, 'more case')}, which the run file names."] if left else []
            )
        return _joined([*frame[0], *blocks, *frame[1]])

    def _red(self) -> dict[str, list[str]]:
        """Return the ids that fail the run, by verdict, the gravest first."""
        found = {
            verdict: [case.id for case in self.comparison.red if case.verdict == verdict]
            for verdict in self.comparison.counts
        }
        return {short_verdict(verdict): ids for verdict, ids in found.items() if ids}

    def _head(self) -> Iterator[str]:
        yield MARKER
        yield f"## peft_regress: {escape_markdown(outcome_line(self.comparison))}"
        changes = self.packages
        if changes and self.findings:
            more = f" and {len(changes) - _MOST_PACKAGES} more" if changes[_MOST_PACKAGES:] else ""
            yield f"Packages: **{escape_markdown('; '.join(changes[:_MOST_PACKAGES]))}**{more}."
        yield from (f"**{sentence}.**" for sentence in strictness(self.comparison))

    def _shortened(self) -> str:
        command = compare_command(self.comparison.invocation)
        shown = code_span(clean(command, longest=_LONGEST_LINE))
        return f"Shortened to the length that GitHub accepts: {shown} shows everything."

    def _better(self) -> Iterator[str]:
        if not self.better:
            return
        lines = []
        for finding in self.better[:_MOST_LINES]:
            ids = _listed(self.names[name] for name in finding.cases)
            headline = clean(finding_headline(finding), longest=_LONGEST_LINE)
            lines.append(f"{escape_markdown(headline)}: {ids}")
        lines += _more(len(self.better))
        count = count_of(len({name for one in self.better for name in one.cases}), "case")
        yield details(f"Better than the baseline, not accepted: {count}", bullets(lines))

    def _budgets(self) -> Iterator[str]:
        if not has_budgets(self.comparison):
            return
        over = budget_table(self.comparison, over_alone=True, most=_MOST_BUDGETS)
        if over.rows:
            yield as_markdown([Section(title="Over budget", level=3), over])
        shown = budget_table(self.comparison, most=_MOST_BUDGETS)
        left = sum(len(case.budgets) for case in self.comparison.cases) - len(shown.rows)
        more = f"\n\nAnd {left} more, of which less is used." if left else ""
        yield details("Budgets: how much of each is used", f"{as_markdown([shown])}{more}")

    def _remarks(self) -> Iterator[str]:
        found = remarks_lines(self.comparison)
        if found:
            shown = (clean(line, longest=_LONGEST_LINE) for line in found[:_MOST_LINES])
            lines = [*map(escape_markdown, shown), *_more(len(found))]
            yield details(f"Besides: {count_of(len(found), 'remark')}", bullets(lines))

    def _environment(self) -> Iterator[str]:
        if self.packages:
            lines = [escape_markdown(line) for line in self.packages[:50]]
            packages = count_of(len(self.packages), "package")
            yield details(f"Environment: {packages} changed", bullets(lines))

    def _quiet(self) -> Iterator[str]:
        """Yield what does not fail the run: known defects, times that are not judged."""
        defects = known_defects(self.comparison)
        lines = [
            f"{escape_markdown(what)} ({len(ids)}): {_listed(ids)}"
            for what, ids in list(defects.items())[:_MOST_LINES]
        ]
        if lines:
            count = len({name for ids in defects.values() for name in ids})
            summary = f"Known defects, in the baseline too: {count_of(count, 'case')}"
            yield details(summary, bullets([*lines, *_more(len(defects))]))
        untimed = times_lines(self.comparison)
        if untimed:
            yield "T" + "; ".join(untimed).removeprefix("t") + "."

    def _what_to_type(self) -> list[str]:
        accept = accept_command(self.comparison)
        if_right = "### If the new numbers are right"
        if not self.findings:
            strictly = self.comparison.strict and self.comparison.can_be_accepted
            return [if_right, fenced(accept, "sh")] if strictly else []
        measured = [one for one in self.findings if one.verdict != "missing"]
        commands = reproducing_commands(self.comparison, self.findings)
        blocks = ["### How to reproduce", fenced("\n".join(commands), "sh")]
        if measured and self.comparison.can_be_accepted:
            blocks += [if_right, fenced(accept, "sh")]
        if len(measured) < len(self.findings) and self.comparison.invocation.only is None:
            retire = f"{accept} --retire ID"
            blocks += ["### If what is missing is gone for good", fenced(retire, "sh")]
        return blocks


def _more(count: int) -> list[str]:
    return [f"and {count - _MOST_LINES} more"] if count > _MOST_LINES else []


def _listed(names: Iterable[str]) -> str:
    """Return the first of the names; the caller shows how many there are."""
    return code_span(clean(" ".join(names), longest=_LONGEST_LINE))


def _joined(blocks: list[str]) -> str:
    return "\n\n".join(blocks) + "\n"
