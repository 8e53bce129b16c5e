"""Keep one comment on a pull request up to date with the verdict on its newest commit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from publish_drafts import load_draft
from publish_results import PublishError
from publish_text import defused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from publish_results import Commands

MARKER: Final = "<!-- peft-regress -->"
"""The first line of the comment, as `peft_regress.report.verdict.markdown` writes it."""
BOT: Final = "github-actions[bot]"
"""The comment's author, if GitHub's own token posts it."""
_NO_VERDICT: Final = """## peft_regress: no verdict

The run ended before its verdict. Its log says why."""


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """A run of the workflow as GitHub describes it: the run itself cannot change that."""

    number: int
    address: str
    event: str
    commit: str
    branch: str
    repository: str | None
    """Owner and name of the head's repository; None if it was deleted."""


def post_comment(drafts: Path, commands: Commands, *, run_id: int, author: str = BOT) -> str:
    """Write the verdict of a run into its pull request's one comment; return what was done.

    GitHub says which open pull request has the commit that ran as its head. Only a comment by
    `author` that starts with the marker is edited. Raises `PublishError` if the draft has another
    form, or a command fails or answers in another form.
    """
    draft = load_draft(drafts, "comment")
    # Once more, in the job that has the token: it changes nothing in what `prepare.py` wrote.
    verdict = defused(draft.get("text", ""))
    run = _find_run(commands, run_id)
    if run is None:
        body = _body(verdict, f"run {run_id}")
        return _write(commands, "PULL-REQUEST", body, author=author)
    if run.event != "pull_request":
        return f"run {run_id} was started by {run.event}: it has no pull request"
    if run.repository is None:
        return f"run {run_id}: the repository of its head was deleted"
    pulls = _pulls_at(commands, run)
    if not pulls:
        return f"no open pull request has {run.commit} of {run.repository} as its head"
    body = _body(verdict, f"[this run]({run.address}) of {run.commit[:10]}", run.number)
    done = [_write(commands, str(number), body, author=author) for number in pulls]
    return "; ".join(done)


def _body(verdict: str, run: str, number: int | None = None) -> str:
    download = "" if number is None else f": `gh run download {number} --name proposed-baseline`"
    page = ", whose summary links the page" if verdict else ""
    foot = f"\n\nFrom {run}{page}. Its run file is an artifact{download}"
    return f"{MARKER}\n\n{verdict or _NO_VERDICT}{foot}"


def _find_run(commands: Commands, run_id: int) -> BenchRun | None:
    """Ask GitHub for a run; None in a dry run, which asks nothing."""
    answer = commands.run("gh", "api", f"repos/{{owner}}/{{repo}}/actions/runs/{run_id}")
    if commands.dry_run:
        return None
    try:
        fields = json.loads(answer)
        head = fields["head_repository"]
        return BenchRun(
            number=int(fields["id"]),
            address=str(fields["html_url"]),
            event=str(fields["event"]),
            commit=str(fields["head_sha"]),
            branch=str(fields["head_branch"]),
            repository=None if head is None else str(head["full_name"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(_unexpected("a run", answer)) from error


def _pulls_at(commands: Commands, run: BenchRun) -> list[int]:
    """Return the open pull requests whose head is the repository, branch and commit that ran."""
    owner = str(run.repository).partition("/")[0]
    query = ("-f", "state=open", "-f", f"head={owner}:{run.branch}", "-F", "per_page=100")
    answer = commands.run("gh", "api", "--method", "GET", "repos/{owner}/{repo}/pulls", *query)
    try:
        return [
            int(pull["number"])
            for pull in json.loads(answer)
            if (pull["head"]["repo"] or {}).get("full_name") == run.repository
            and pull["head"]["sha"] == run.commit
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(_unexpected("pull requests", answer)) from error


def _write(commands: Commands, pull: str, body: str, *, author: str) -> str:
    """Create the comment, or edit the existing one."""
    comments = f"repos/{{owner}}/{{repo}}/issues/{pull}/comments"
    mine = _own_comments(commands, comments, author)
    content = json.dumps({"body": body})
    if not mine:
        commands.run("gh", "api", "--method", "POST", comments, "--input", "-", stdin=content)
        return f"commented on pull request {pull}"
    comment, text = mine[0]
    if text.strip() == body.strip():
        return f"pull request {pull} already has this comment"
    where = f"repos/{{owner}}/{{repo}}/issues/comments/{comment}"
    commands.run("gh", "api", "--method", "PATCH", where, "--input", "-", stdin=content)
    return f"updated the comment on pull request {pull}"


def _own_comments(commands: Commands, comments: str, author: str) -> Sequence[tuple[int, str]]:
    """Return the author's comments with the marker, the oldest first."""
    # One line per comment: with pages, a list would become several lists.
    fields = ".[] | [.id, .user.login, .body] | @json"
    query = ("--paginate", f"{comments}?per_page=100", "--jq", fields)
    answer = commands.run("gh", "api", *query)
    try:
        found: list[tuple[Any, Any, Any]] = [json.loads(line) for line in answer.splitlines()]
        return sorted(
            (int(number), str(body).replace("\r\n", "\n"))
            for number, login, body in found
            if login == author and str(body).startswith(MARKER)
        )
    except (ValueError, TypeError) as error:
        raise PublishError(_unexpected("comments", answer)) from error


def _unexpected(what: str, answer: str) -> str:
    return f"`gh api` did not return {what}: {answer[:200]!r}. Update gh."
