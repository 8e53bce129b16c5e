"""Keep one issue per candidate about what regressed with it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from publish_results import LONGEST_BODY, PublishError, fit, link_to_run

if TYPE_CHECKING:
    from publish_results import Commands, Results

LABEL: Final = "upgrade-regression"
_REGRESSED: Final = 1
_LONGEST_TITLE: Final = 256


def report_issue(results: Results, commands: Commands) -> str:
    """Open an issue about a regression, or update the open one; return what was done.

    A hidden marker in the body names the issue's candidate and finding, so that a second run with
    the same finding changes nothing. Only issues with the label count: a stranger can write a
    marker, but cannot set a label. Raises `PublishError` if there is no finding or a command fails.
    """
    if results.exit_code != _REGRESSED:
        return f"{results.candidate}: nothing regressed (exit code {results.exit_code}); no issue"
    if not results.findings:
        msg = f"{results.folder / 'findings.md'}: is missing or empty, although something regressed"
        raise PublishError(msg)
    candidate = f"<!-- peft-regress upgrade {_digest(chr(10).join(sorted(results.requirements)))} "
    marker = f"{candidate}{_digest(results.findings)} -->"
    title, body = _title(results), _body(results, marker)
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _title(results: Results) -> str:
    """Return the finding's first line as the title."""
    headline = re.sub(r"^#+\s*", "", results.findings.partition("\n")[0])
    shown = "".join(letter if letter.isprintable() else " " for letter in headline).strip()
    return (shown or f"Upgrade to {results.candidate}")[:_LONGEST_TITLE]


def _body(results: Results, marker: str) -> str:
    head, foot = f"{marker}\n\n", link_to_run()
    return head + fit(results.findings, longest=LONGEST_BODY - len(head) - len(foot)) + foot


def _open_issue(commands: Commands, candidate: str) -> dict[str, Any] | None:
    """Return the oldest open issue of a candidate."""
    query = ("--label", LABEL, "--state", "open", "--limit", "1000", "--json", "number,body")
    answer = commands.run("gh", "issue", "list", *query)
    try:
        issues = json.loads(answer or "[]")
        found = [issue for issue in issues if candidate in issue["body"]]
        return min(found, key=lambda issue: int(issue["number"]), default=None)
    except (ValueError, KeyError, TypeError) as error:
        msg = f"`gh issue list` did not return a list of issues: {answer[:200]!r}. Update gh."
        raise PublishError(msg) from error
