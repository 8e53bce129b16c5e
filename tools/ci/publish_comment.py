"""Keep one comment on a pull request up to date with the verdict on its head."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from publish_results import LONGEST_BODY, PublishError, fit, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from publish_results import Commands

MARKER: Final = "<!-- peft-regress -->"
"""The first line of the comment, as `peft_regress.report.verdict.markdown` writes it."""
BOT: Final = "github-actions[bot]"
"""Whose comment it is where GitHub's own token posts it."""
_NO_VERDICT: Final = """## peft_regress: no verdict

The run did not come as far as a verdict. Its log says why."""
_LIVE: Final = re.compile(
    r"@(?=\w)"  # mentions
    r"|#(?=\d)|\bgh(?=\\?-\d)"  # references to issues, which are told of it
    r"|:(?=\\?/\\?/)|\bwww(?=\\?\.)|\](?=\(|:)"  # links and images
    r"|&(?!(?:amp|lt|gt|#8203);)(?=#?\w)"  # any of these under another name: `&#64;`, `&commat;`
    r"|<(?!/?details>|/?summary>)",  # HTML but what folds
    re.IGNORECASE,
)
_REMEDY: Final = "Name the folder of the artifact `verdict`."
_NO_WIDTH: Final = "\u200b"


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """A run of the workflow as GitHub describes it, which the run itself cannot alter."""

    number: int
    address: str
    event: str
    commit: str
    branch: str
    repository: str | None
    """Owner and name of the head's repository; None where it is gone."""


def post_comment(results: Path, commands: Commands, *, run_id: int, author: str = BOT) -> str:
    """Write the verdict of a run into its pull request's one comment; return what was done.

    The pull request is the open one whose head, by GitHub's own account, is the commit that ran.
    What the run left is text that the head's code may have written: it names no pull request, and
    makes no mention and no link. Only a comment of `author` that begins with the marker is edited.
    """
    run = _find_run(commands, run_id)
    if run is None:
        body = _body(results, f"run {run_id}")
        return _write(commands, "PULL-REQUEST", body, author=author)
    if run.event != "pull_request":
        return f"run {run_id} is of the event {run.event}: there is no pull request to tell"
    if run.repository is None:
        return f"run {run_id}: the repository of its head is gone"
    pulls = _pulls_at(commands, run)
    if not pulls:
        return f"no open pull request has {run.commit} of {run.repository} as its head"
    body = _body(results, f"[this run]({run.address}) of {run.commit[:10]}", run.number)
    done = [_write(commands, str(number), body, author=author) for number in pulls]
    return "; ".join(done)


def defused(text: str) -> str:
    """Return Markdown in which nothing mentions, refers, links, or is HTML that does not fold.

    What would is broken by a character without width, so that it is still read as it was.
    """
    return _LIVE.sub(f"\\g<0>{_NO_WIDTH}", text.replace("\0", ""))


def _body(results: Path, run: str, number: int | None = None) -> str:
    path = results / "comment.md"
    said = read_text(path, remedy=_REMEDY) if os.path.lexists(path) else ""
    said = defused(said.strip().removeprefix(MARKER).strip()) or _NO_VERDICT
    download = "" if number is None else f": `gh run download {number} --name proposed-baseline`"
    foot = f"\n\nFrom {run}. Its run file is an artifact{download}"
    room = LONGEST_BODY - len(MARKER) - len(foot) - 2
    return f"{MARKER}\n\n{fit(said, longest=room)}{foot}"


def _find_run(commands: Commands, run_id: int) -> BenchRun | None:
    """Ask GitHub for a run; None of a dry run, which asks nothing."""
    answer = commands.run("gh", "api", f"repos/{{owner}}/{{repo}}/actions/runs/{run_id}")
    if commands.dry_run:
        return None
    try:
        told = json.loads(answer)
        head = told["head_repository"]
        return BenchRun(
            number=int(told["id"]),
            address=str(told["html_url"]),
            event=str(told["event"]),
            commit=str(told["head_sha"]),
            branch=str(told["head_branch"]),
            repository=None if head is None else str(head["full_name"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(_strange("a run", answer)) from error


def _pulls_at(commands: Commands, run: BenchRun) -> list[int]:
    """Return the open pull requests whose head is what ran: repository, branch and commit."""
    owner = str(run.repository).partition("/")[0]
    asked = ("-f", "state=open", "-f", f"head={owner}:{run.branch}", "-F", "per_page=100")
    answer = commands.run("gh", "api", "--method", "GET", "repos/{owner}/{repo}/pulls", *asked)
    try:
        return [
            int(pull["number"])
            for pull in json.loads(answer)
            if (pull["head"]["repo"] or {}).get("full_name") == run.repository
            and pull["head"]["sha"] == run.commit
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(_strange("pull requests", answer)) from error


def _write(commands: Commands, pull: str, body: str, *, author: str) -> str:
    """Create the comment, or edit the one that there is."""
    comments = f"repos/{{owner}}/{{repo}}/issues/{pull}/comments"
    mine = _mine(commands, comments, author)
    content = json.dumps({"body": body})
    if not mine:
        commands.run("gh", "api", "--method", "POST", comments, "--input", "-", stdin=content)
        return f"commented on pull request {pull}"
    comment, said = mine[0]
    if said.strip() == body.strip():
        return f"pull request {pull} has this comment already"
    where = f"repos/{{owner}}/{{repo}}/issues/comments/{comment}"
    commands.run("gh", "api", "--method", "PATCH", where, "--input", "-", stdin=content)
    return f"updated the comment on pull request {pull}"


def _mine(commands: Commands, comments: str, author: str) -> Sequence[tuple[int, str]]:
    """Return the author's comments with the marker, the oldest first."""
    # A line a comment: pages of a list would be several lists.
    fields = ".[] | [.id, .user.login, .body] | @json"
    asked = ("--paginate", f"{comments}?per_page=100", "--jq", fields)
    answer = commands.run("gh", "api", *asked)
    try:
        found: list[tuple[Any, Any, Any]] = [json.loads(line) for line in answer.splitlines()]
        return sorted(
            (int(number), str(body).replace("\r\n", "\n"))
            for number, login, body in found
            if login == author and str(body).startswith(MARKER)
        )
    except (ValueError, TypeError) as error:
        raise PublishError(_strange("comments", answer)) from error


def _strange(what: str, answer: str) -> str:
    return f"`gh api` gave no answer on {what}: {answer[:200]!r}. Update gh."
