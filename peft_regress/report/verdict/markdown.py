"""A verdict as GitHub-flavoured Markdown, for a job's page or a comment on a pull request.

If it is longer than GitHub accepts, it says less of each regression. It names every case as long as
the ids fit: those of some 2,000 cases do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from peft_regress.gate.comparison import Comparison
from peft_regress.report.document import Code, Listing, Section
from peft_regress.report.markdown import as_markdown
from peft_regress.report.sentences import short_verdict
from peft_regress.report.verdict.document import Extent, outcome_section, verdict_sections
from peft_regress.report.verdict.next_steps import compare_command
from peft_regress.text import clean, count_of

MARKER: Final = "<!-- peft-regress -->"
"""The first line, which identifies the comment. It contains nothing from a file."""
LONGEST_BYTES: Final = 60_000
"""GitHub accepts comments of 65,536 characters; the rest is left to the script that posts it."""

_MOST_LINES: Final = 12
_EXTENTS: Final = (Extent(most=_MOST_LINES), Extent(details=False, modules=False, most=_MOST_LINES))
_LONGEST_NAME: Final = 80


def verdict_markdown(comparison: Comparison) -> str:
    """Return marker, headline, the findings with their rows, what is folded, and what to type."""
    outcome = outcome_section(comparison)
    head = [Section(title=f"peft_regress: {outcome.title}", body=outcome.body, level=2)]
    for extent in _EXTENTS:
        sections = verdict_sections(comparison, extent)
        text = _written([*head, *sections])
        if _fits(text):
            return text
        command = clean(compare_command(comparison.invocation), longest=400)
        words = ("Shortened to the length that GitHub accepts:", Code(command), "shows everything.")
        head = [head[0], Section(title=words)]
    steps = [section for section in sections if section.title == "what to type:"]
    verdicts = list(comparison.counts)
    red = sorted(comparison.red, key=lambda case: verdicts.index(case.verdict))
    ids = [(short_verdict(case.verdict), clean(case.id, longest=_LONGEST_NAME)) for case in red]
    most = len(ids)
    while not _fits(text := _written([*head, *_ids_alone(ids, most), *steps])) and most:
        most = most * 9 // 10
    return text


def _ids_alone(ids: list[tuple[str, str]], most: int) -> Iterator[Section]:
    """Yield the first ids by verdict, and the number of the others."""
    for verdict, group in groupby(enumerate(ids), key=lambda one: one[1][0]):
        names = [(at, name) for at, (_, name) in group]
        shown = [name for at, name in names if at < most]
        left = len(names) - len(shown)
        more = f"and {count_of(left, 'more case')}, which the run file names"
        yield Section(
            title=f"{verdict}: {count_of(len(names), 'case')}",
            body=(*([Listing("\n".join(shown))] if shown else []), *([more] if left else [])),
            level=3,
        )


def _fits(text: str) -> bool:
    return len(text.encode()) <= LONGEST_BYTES


def _written(sections: list[Section]) -> str:
    return f"{MARKER}\n\n{as_markdown(sections)}\n"
