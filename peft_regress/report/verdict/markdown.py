"""A verdict as GitHub-flavoured Markdown, for a job's page or a comment on a pull request.

It stays below what GitHub takes by saying less of each regression, never by leaving one out, while
their ids fit: those of some 2,000 cases do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peft_regress.gate.findings import find_causes
from peft_regress.gate.judge import FAILING, INCOMPLETE, UNACCEPTED
from peft_regress.report.markdown_syntax import (
    bullets,
    code_span,
    details,
    escape_markdown,
    fenced,
)
from peft_regress.report.sentences import known_defects, outcome_line, times_lines
from peft_regress.report.short_names import short_names
from peft_regress.report.verdict.finding import finding_title
from peft_regress.report.verdict.finding_markdown import (
    Extent,
    Sides,
    cases_word,
    finding_blocks,
)
from peft_regress.report.verdict.next_steps import accept_command
from peft_regress.report.verdict.reproducing import (
    compare_command,
    reproducing_commands,
)
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from peft_regress.gate.judge import Observation, RunVerdict
    from peft_regress.report.verdict.next_steps import Typed

__all__ = ["LONGEST_BYTES", "MARKER", "verdict_markdown"]

MARKER: Final = "<!-- peft-regress -->"
"""The first line: by it a comment is found again. It holds nothing of a file."""
LONGEST_BYTES: Final = 60_000
"""GitHub takes 65,536 characters as a comment; the rest is for who posts it to add to."""

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
_LONGEST_LINE: Final = 400


def verdict_markdown(
    verdict: RunVerdict,
    references: Mapping[str, Observation],
    observed: Mapping[str, Observation],
    *,
    typed: Typed,
) -> str:
    """Return marker, headline, the findings with their rows, what is folded, and what to type."""
    page = _Page(verdict, references, observed, typed)
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
    """One verdict, from which texts of several extents are made."""

    def __init__(
        self,
        verdict: RunVerdict,
        references: Mapping[str, Observation],
        observed: Mapping[str, Observation],
        typed: Typed,
    ) -> None:
        self.verdict = verdict
        self.typed = typed
        self.ids = [case.id for case in verdict.cases]
        self.sides = Sides(references, observed, short_names(self.ids))
        found = find_causes(verdict.cases, references, observed)
        told = FAILING | INCOMPLETE
        self.findings = [finding for finding in found if finding.verdict in told]
        self.better = [finding for finding in found if finding.verdict in UNACCEPTED]

    def text(self, extent: Extent) -> str:
        """Return the whole page."""
        blocks = list(self._head())
        if extent != _EXTENTS[0]:
            blocks.append(self._shortened())
        for number, finding in enumerate(self.findings, start=1):
            blocks += finding_blocks(number, finding, self.sides, extent)
        blocks += self._better()
        blocks += self._environment()
        blocks += self._quiet()
        return _joined([*blocks, *self._what_to_type()])

    def ids_alone(self, longest: int) -> str:
        """Return the page with nothing of a case but its id and verdict."""
        names = short_names(self.ids, longest=longest)
        blocks = [*self._head(), self._shortened()]
        for name, ids in self._told().items():
            blocks.append(f"### {name}: {cases_word(len(ids))}")
            blocks.append(fenced("\n".join(names[one] for one in ids), "text"))
        return _joined([*blocks, *self._what_to_type()])

    def as_many_ids_as_fit(self, longest: int) -> str:
        """Return the same where there are more ids than GitHub takes: the rest is counted."""
        names = short_names(self.ids, longest=longest)
        frame = [[*self._head(), self._shortened()], self._what_to_type()]
        room = LONGEST_BYTES - sum(len(_joined(blocks).encode()) for blocks in frame)
        blocks = []
        for name, ids in self._told().items():
            heading = f"### {name}: {cases_word(len(ids))}"
            room -= len(heading) + 200
            shown: list[str] = []
            for one in ids:
                room -= len(names[one].encode()) + 1
                if room < 0:
                    break
                shown.append(names[one])
            left = len(ids) - len(shown)
            blocks += [heading, fenced("\n".join(shown), "text")] if shown else [heading]
            blocks += [f"And {cases_word(left)} more, which the run file names."] if left else []
        return _joined([*frame[0], *blocks, *frame[1]])

    def _told(self) -> dict[str, list[str]]:
        """Return the ids that fail the run, by verdict, the gravest first."""
        return {
            name.replace("_", " "): [case.id for case in self.verdict.cases if case.verdict == name]
            for name in self.verdict.counts
            if name in FAILING | INCOMPLETE
        }

    def _head(self) -> Iterator[str]:
        yield MARKER
        yield f"## peft_regress: {escape_markdown(outcome_line(self.verdict))}"
        moved = self.sides.packages
        if moved and self.findings:
            more = f" and {len(moved) - _MOST_PACKAGES} more" if moved[_MOST_PACKAGES:] else ""
            yield f"Packages: **{escape_markdown('; '.join(moved[:_MOST_PACKAGES]))}**{more}."
        better = len(self.verdict.unaccepted())
        if self.typed.strict and better:
            yield f"**Failed: {cases_word(better)} better than the baseline, not accepted.**"

    def _shortened(self) -> str:
        command = code_span(clean(compare_command(self.typed), longest=_LONGEST_LINE))
        return f"Shortened to what GitHub takes: {command} says everything."

    def _better(self) -> Iterator[str]:
        if not self.better:
            return
        lines = []
        for finding in self.better[:_MOST_LINES]:
            ids = _listed(self.sides.names[name] for name in finding.cases)
            title = clean(finding_title(finding), longest=_LONGEST_LINE)
            head = f"{finding.verdict} in {cases_word(len(finding.cases))}"
            lines.append(f"{escape_markdown(f'{head}: {title}')}: {ids}")
        lines += _more(len(self.better))
        count = len({name for finding in self.better for name in finding.cases})
        yield details(
            f"Better than the baseline, not accepted: {cases_word(count)}", bullets(lines)
        )

    def _environment(self) -> Iterator[str]:
        moved = self.sides.packages
        if moved:
            lines = [escape_markdown(line) for line in moved[:50]]
            packages = "1 package" if len(moved) == 1 else f"{len(moved)} packages"
            yield details(f"Environment: {packages} changed", bullets(lines))

    def _quiet(self) -> Iterator[str]:
        """Return what fails nothing: known defects, times that nothing judges."""
        defects = known_defects(self.verdict)
        lines = [
            f"{escape_markdown(what)} ({len(ids)}): {_listed(ids)}"
            for what, ids in list(defects.items())[:_MOST_LINES]
        ]
        if lines:
            count = len({name for ids in defects.values() for name in ids})
            summary = f"Known defects, in the baseline too: {cases_word(count)}"
            yield details(summary, bullets([*lines, *_more(len(defects))]))
        untimed = times_lines(self.sides.references, self.sides.observed)
        if untimed:
            yield "T" + "; ".join(untimed).removeprefix("t") + "."

    def _what_to_type(self) -> list[str]:
        moved = [one for one in self.findings if one.verdict != "missing"]
        if self.typed.strict:
            moved += self.better
        if not moved and not self.findings:
            return []
        known = {**self.sides.observed, **self.sides.references}
        commands = reproducing_commands(self.typed, self.findings or moved, known)
        blocks = ["### How to reproduce", fenced("\n".join(commands), "sh")]
        accept = accept_command(self.typed)
        if moved:
            blocks += ["### If the new numbers are right", fenced(accept, "sh")]
        if len(moved) < len(self.findings):
            retire = f"{accept} --retire ID"
            blocks += ["### If what is missing is gone for good", fenced(retire, "sh")]
        return blocks


def _more(count: int) -> list[str]:
    return [f"and {count - _MOST_LINES} more"] if count > _MOST_LINES else []


def _listed(names: Iterable[str]) -> str:
    """Return the first of names that fail nothing; whoever shows them counts them."""
    return code_span(clean(" ".join(names), longest=_LONGEST_LINE))


def _joined(blocks: list[str]) -> str:
    return "\n\n".join(blocks) + "\n"
