"""Report a run to GitHub: as an issue, or a comment on a pull request.

    python tools/ci/publish.py issue drafts --candidate release --dry-run
    python tools/ci/publish.py comment drafts --dry-run

It runs with a token that can write, and so takes nothing from a run, only the drafts that
`prepare.py` made of it in another job, and makes their text safe once more. It needs no package.
`--dry-run` prints each command and runs none. For `comment` the variables HEAD_REPOSITORY,
HEAD_BRANCH, HEAD_COMMIT and RUN_URL say what GitHub knows of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from untrusted import UntrustedError, defused, defused_outside_code, read_text

LABEL: Final = "upgrade-regression"
_LONGEST_TITLE: Final = 200
_NO_VERDICT: Final = """## peft_regress: no verdict

The run ended before its verdict. Its log says why."""


class PublishError(Exception):
    """Something cannot be published; the message says why, and what to do."""


@dataclass(frozen=True)
class Commands:
    """Runs commands, or only prints them in a dry run."""

    dry_run: bool = False

    def run(self, *command: str, stdin: str = "") -> str:
        """Return the output of a command; in a dry run, nothing.

        Raises `PublishError` with the command's message if it fails.
        """
        shown = shlex.join(command)
        if self.dry_run:
            print(f"$ {shown}" + (f" <<'END'\n{stdin}\nEND" if stdin else ""))
            return ""
        try:
            ended = subprocess.run(
                command, input=stdin, capture_output=True, check=False, encoding="utf-8"
            )
        except OSError as error:
            raise PublishError(
                f"`{command[0]}` cannot be run ({error.strerror}): install it, or use --dry-run"
            ) from error
        if ended.returncode:
            output = ended.stderr.strip() or ended.stdout.strip() or "no message"
            raise PublishError(f"`{shown}` failed (exit code {ended.returncode}): {output}")
        return ended.stdout.strip()

    def answer(self, *command: str) -> list[dict[str, Any]]:
        """Return the list that `gh` prints as JSON; empty in a dry run."""
        text = self.run("gh", *command)
        try:
            found = json.loads(text or "[]")
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise PublishError(f"`gh` did not print a list: {text[:200]!r}. Update gh.")
        return found


def main(arguments: list[str] | None = None) -> int:
    """Publish; return 0, also if there is nothing to publish, or 2 if publishing failed."""
    chosen = argument_parser().parse_args(arguments)
    commands = Commands(chosen.dry_run)
    try:
        draft = read_text(chosen.drafts / f"{chosen.kind}.md")
        if chosen.kind == "comment":
            print(post_comment(draft, commands))
        elif not draft:
            print("nothing regressed: no issue")
        else:
            print(report_issue(draft, commands, candidate=chosen.candidate))
    except (PublishError, UntrustedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("comment", "issue"))
    parser.add_argument("drafts", type=Path, help="the folder with the drafts")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    parser.add_argument("--candidate", choices=("release", "main"), default="release")
    return parser


def first_line(text: str) -> str:
    """Return the first line as a title."""
    line = re.sub(r"^#+\s*", "", text.strip().partition("\n")[0])
    return "".join(letter if letter.isprintable() else " " for letter in line)[:_LONGEST_TITLE]


def link_to_run() -> str:
    """Return a sentence with a link to this run of the workflow."""
    server, repository, run = (
        os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    address = f"{server}/{repository}/actions/runs/{run}"
    return f"\n\nThe run file is an artifact of [this run]({address})."


def report_issue(draft: str, commands: Commands, *, candidate: str) -> str:
    """Open the issue about what regressed with a candidate, or update the open one.

    Only issues with the label count: a stranger can write the hidden marker that names the
    candidate, but cannot set a label.
    """
    marker = f"<!-- peft-regress upgrade {candidate} -->"
    body = f"{marker}\n\n{defused_outside_code(draft)}{link_to_run()}"
    fields = ("--title", first_line(draft), "--body-file", "-")
    query = ("--label", LABEL, "--state", "open", "--limit", "1000", "--json", "number,body")
    found = [
        one["number"] for one in commands.answer("issue", "list", *query) if marker in one["body"]
    ]
    if found:
        commands.run("gh", "issue", "edit", str(min(found)), *fields, stdin=body)
        return f"updated issue {min(found)}"
    description = "Something regressed with a new release; updated by tools/ci/publish.py"
    commands.run("gh", "label", "create", LABEL, "--force", "--description", description)
    return f"opened {commands.run('gh', 'issue', 'create', '--label', LABEL, *fields, stdin=body)}"


def post_comment(draft: str, commands: Commands) -> str:
    """Write a verdict into the one comment on the pull request whose head ran.

    GitHub says which open pull request has the commit that ran as its head. No other workflow
    comments, so the last comment of this token's user is the verdict on an earlier commit.
    """
    repository, branch, commit, address = (
        os.environ.get(name, "")
        for name in ("HEAD_REPOSITORY", "HEAD_BRANCH", "HEAD_COMMIT", "RUN_URL")
    )
    head = f"head={repository.partition('/')[0]}:{branch}"
    query = ("--method", "GET", "repos/{owner}/{repo}/pulls", "-f", "state=open", "-f", head)
    pulls = [
        str(int(pull["number"]))
        for pull in commands.answer("api", *query, "-F", "per_page=100")
        if pull["head"]["sha"] == commit
        and (pull["head"]["repo"] or {}).get("full_name") == repository
    ]
    verdict = defused(draft) or _NO_VERDICT
    page = ", whose summary links the page" if draft else ""
    for pull in pulls or (["PULL-REQUEST"] if commands.dry_run else []):
        body = (
            f"{verdict}\n\nFrom [this run]({address}) of {commit[:10]}{page}. Its run file is an "
            f"artifact: `gh run download {address.rpartition('/')[2]} --name proposed-baseline`"
        )
        options = ("--edit-last", "--create-if-none", "--body-file", "-")
        commands.run("gh", "pr", "comment", pull, *options, stdin=body)
    if not pulls:
        return f"no open pull request has {commit} of {repository} as its head"
    return f"commented on pull request {', '.join(pulls)}"


if __name__ == "__main__":
    sys.exit(main())
