"""A verdict as GitHub-flavoured Markdown, for a job's page or a comment on a pull request.

If it is longer than GitHub accepts, it says less of each regression, and in the end only what
changed, by how much and in how many cases.
"""

from __future__ import annotations

from typing import Final

from peft_regress.gate.comparison import Comparison
from peft_regress.report.document import Code, Section
from peft_regress.report.markdown import as_markdown
from peft_regress.report.verdict.document import Extent, outcome_section, verdict_sections
from peft_regress.report.verdict.finding import finding_headline
from peft_regress.report.verdict.next_steps import compare_command
from peft_regress.text import clean

MARKER: Final = "<!-- peft-regress -->"
"""The first line, which identifies the comment. It contains nothing from a file."""
LONGEST_BYTES: Final = 60_000
"""GitHub accepts comments of 65,536 characters; the rest is left to the script that posts it."""

_MOST_LINES: Final = 12
_EXTENTS: Final = (Extent(most=_MOST_LINES), Extent(details=False, most=_MOST_LINES))


def verdict_markdown(comparison: Comparison) -> str:
    """Return marker, headline, the findings with their rows, what is folded, and what to type."""
    outcome = outcome_section(comparison)
    head = [Section(title=f"peft_regress: {outcome.title}", body=outcome.body, level=2)]
    for extent in _EXTENTS:
        sections = verdict_sections(comparison, extent)
        text = _written([*head, *sections])
        if len(text.encode()) <= LONGEST_BYTES:
            return text
        command = clean(compare_command(comparison.invocation), longest=400)
        words = ("Shortened to the length that GitHub accepts:", Code(command), "shows everything.")
        head = [head[0], Section(title=words)]
    steps = [section for section in sections if section.title == "what to type:"]
    told = [clean(finding_headline(one), longest=400) for one in comparison.findings]
    more = [f"and {len(told) - _MOST_LINES} more"] if len(told) > _MOST_LINES else []
    return _written([*head, Section(title="", body=(*told[:_MOST_LINES], *more)), *steps])


def _written(sections: list[Section]) -> str:
    return f"{MARKER}\n\n{as_markdown(sections)}\n"
