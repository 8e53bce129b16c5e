"""Prepare the issue about what regressed with a candidate."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from publish_drafts import write_draft, write_nothing
from publish_results import LONGEST_BODY, PublishError, fit
from publish_text import defused_outside_code

if TYPE_CHECKING:
    from pathlib import Path

    from publish_results import Results

_REGRESSED: Final = 1
_LONGEST_TITLE: Final = 256


def prepare_issue(results: Results, drafts: Path) -> str:
    """Write the draft of an issue; return what was done. Raises `PublishError`."""
    if results.exit_code != _REGRESSED:
        why = f"{results.candidate}: nothing regressed (exit code {results.exit_code}); no issue"
        return write_nothing(drafts, "issue", why)
    if not results.findings:
        raise PublishError(
            f"{results.folder / 'findings.md'}: is missing or empty, although something regressed"
        )
    draft = {
        "title": _title(results),
        "candidate": _digest("\n".join(sorted(results.requirements))),
        "finding": _digest(results.findings),
        "body": fit(defused_outside_code(results.findings), longest=LONGEST_BODY - 1000),
    }
    write_draft(drafts, "issue", draft)
    return f"{results.candidate}: prepared the issue in {drafts}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _title(results: Results) -> str:
    """Return the finding's first line as the title."""
    headline = re.sub(r"^#+\s*", "", results.findings.partition("\n")[0])
    shown = "".join(letter if letter.isprintable() else " " for letter in headline).strip()
    return (shown or f"Upgrade to {results.candidate}")[:_LONGEST_TITLE]
