"""Keep one issue per candidate about what regressed with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from publish_drafts import load_draft
from publish_results import PublishError, link_to_run
from publish_text import defused_outside_code

if TYPE_CHECKING:
    from pathlib import Path

    from publish_results import Commands

LABEL: Final = "upgrade-regression"


def report_issue(drafts: Path, commands: Commands) -> str:
    """Open the issue of a draft, or update the open one; return what was done.

    A hidden marker in the body names the issue's candidate and finding, so that a second run with
    the same finding changes nothing. Only issues with the label count: a stranger can write a
    marker, but cannot set a label. Raises `PublishError` if the draft has another form, or if a
    command fails.
    """
    draft = load_draft(drafts, "issue")
    if "nothing" in draft:
        return draft["nothing"]
    title, candidate = draft["title"], f"<!-- peft-regress upgrade {draft['candidate']} "
    marker = f"{candidate}{draft['finding']} -->"
    body = f"{marker}\n\n{defused_outside_code(draft['body'])}{link_to_run()}"
    open_issue = _open_issue(commands, candidate)
    if open_issue is None:
        description = "Something regressed with a new release; updated by tools/ci/publish.py"
        commands.run("gh", "label", "create", LABEL, "--force", "--description", description)
        fields = ("--title", title, "--label", LABEL, "--body-file", "-")
        return f"opened {commands.run('gh', 'issue', 'create', *fields, stdin=body).strip()}"
    number = str(open_issue["number"])
    if marker in open_issue["body"]:
        return f"issue {number} already has this finding"
    commands.run("gh", "issue", "edit", number, "--title", title, "--body-file", "-", stdin=body)
    return f"updated issue {number}"


def _open_issue(commands: Commands, candidate: str) -> dict[str, Any] | None:
    """Return the oldest open issue of a candidate."""
    query = ("--label", LABEL, "--state", "open", "--limit", "1000", "--json", "number,body")
    answer = commands.run("gh", "issue", "list", *query)
    try:
        issues = json.loads(answer or "[]")
        found = [issue for issue in issues if candidate in issue["body"]]
        return min(found, key=lambda issue: int(issue["number"]), default=None)
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(
            f"`gh issue list` did not return a list of issues: {answer[:200]!r}. Update gh."
        ) from error
