"""Report a run to GitHub: as an issue, or as a comment on a pull request.

    python tools/ci/publish.py issue results --candidate release --dry-run
    python tools/ci/publish.py comment verdict --dry-run

`issue` takes the folder that the gate's action keeps (with exit-code and findings.md), `comment`
one with comment.md. The code of others may have written these texts, so nothing in them stays live,
and it runs none of that code. `--dry-run` prints each command and runs none. For `comment` the
variables HEAD_REPOSITORY, HEAD_BRANCH, HEAD_COMMIT and RUN_URL say what GitHub knows of the run.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LABEL: Final = "upgrade-regression"
LONGEST_BODY: Final = 65_536
"""GitHub's limit for the body of an issue or a comment, in characters."""
_MARKER: Final = "<!-- peft-regress -->"
_NO_VERDICT: Final = """## peft_regress: no verdict

The run ended before its verdict. Its log says why."""
_NO_WIDTH: Final = "\u200b"
_LIVE: Final = re.compile(
    r"@(?=\w)"  # mentions
    r"|#(?=\d)|\bgh(?=\\?-\d)"  # references to issues, which would show this page
    r"|:(?=\\?/\\?/)|\bwww(?=\\?\.)|\](?=\(|:)"  # links and images
    r"|&(?!(?:amp|lt|gt|#8203);)(?=#?\w)"  # the same characters as entities: `&#64;`, `&commat;`
    r"|<(?!\u200b|/?details>|/?summary>)",  # HTML, except folding
    re.IGNORECASE,
)

Run = Callable[..., str]
"""Runs a command, with a text for its standard input, and returns what it prints."""


class PublishError(Exception):
    """Something cannot be published; the message says why, and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Publish; return 0, also if there is nothing to publish, or 2 if publishing failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("comment", "issue"))
    parser.add_argument("folder", type=Path, help="the folder with what the run left")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    parser.add_argument("--candidate", choices=("release", "main"), default="release")
    chosen = parser.parse_args(arguments)
    run = dry_run if chosen.dry_run else real_run
    try:
        if chosen.kind == "comment":
            print(post_comment(read_text(chosen.folder / "comment.md"), run))
        else:
            print(report_issue(chosen.folder, run, candidate=chosen.candidate))
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def dry_run(*command: str, stdin: str = "") -> str:
    """Print a command."""
    print(f"$ {shlex.join(command)}" + (f" <<'END'\n{stdin}\nEND" if stdin else ""))
    return "[]"


def real_run(*command: str, stdin: str = "") -> str:
    """Run a command. Raises `PublishError` with its message if it fails."""
    try:
        ended = subprocess.run(
            command, input=stdin, capture_output=True, check=False, encoding="utf-8"
        )
    except OSError as error:
        raise PublishError(f"`{command[0]}` cannot be run ({error.strerror}): install it") from None
    if ended.returncode:
        raise PublishError(f"`{shlex.join(command)}` failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def report_issue(results: Path, run: Run, *, candidate: str) -> str:
    """Open the issue about what regressed with a candidate, or update the open one.

    Only issues with the label count: a stranger can write the hidden marker that names the
    candidate, but cannot set a label.
    """
    code = read_text(results / "exit-code").strip()
    findings = read_text(results / "findings.md").strip()
    if not code.isdecimal() or (code == "1" and not findings):
        raise PublishError(f"{results}: has no exit-code, or no findings.md; gate it again")
    if code != "1":
        return "nothing regressed: no issue"
    marker = f"<!-- peft-regress upgrade {candidate} -->"
    server, repository, number = (
        os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    link = f"[this run]({server}/{repository}/actions/runs/{number})"
    text = fit(defused_outside_code(findings))
    body = f"{marker}\n\n{text}\n\nThe run file is an artifact of {link}."
    title = re.sub(r"^#+\s*", "", findings.partition("\n")[0])
    title = "".join(letter for letter in title if letter.isprintable())[:200]
    fields = ("--title", title, "--body-file", "-")
    query = ("--label", LABEL, "--state", "open", "--limit", "1000", "--json", "number,body")
    listed = answer(run("gh", "issue", "list", *query))
    found = [one["number"] for one in listed if marker in one["body"]]
    if found:
        run("gh", "issue", "edit", str(min(found)), *fields, stdin=body)
        return f"updated issue {min(found)}"
    description = "Something regressed with a new release; updated by tools/ci/publish.py"
    run("gh", "label", "create", LABEL, "--force", "--description", description)
    return f"opened {run('gh', 'issue', 'create', '--label', LABEL, *fields, stdin=body)}"


def post_comment(verdict: str, run: Run) -> str:
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
        for pull in answer(run("gh", "api", *query, "-F", "per_page=100"))
        if pull["head"]["sha"] == commit
        and (pull["head"]["repo"] or {}).get("full_name") == repository
    ]
    text = fit(defused(verdict.strip().removeprefix(_MARKER).strip())) or _NO_VERDICT
    body = (
        f"{text}\n\nFrom [this run]({address}) of {commit[:10]}. Its run file is an artifact: "
        f"`gh run download {address.rpartition('/')[2]} --name proposed-baseline`"
    )
    for pull in pulls or (["PULL-REQUEST"] if run is dry_run else []):
        options = ("--edit-last", "--create-if-none", "--body-file", "-")
        run("gh", "pr", "comment", pull, *options, stdin=body)
    if not pulls:
        return f"no open pull request has {commit} of {repository} as its head"
    return f"commented on pull request {', '.join(pulls)}"


def answer(text: str) -> list[dict[str, Any]]:
    """Return the list that `gh` printed as JSON."""
    try:
        found: list[dict[str, Any]] = json.loads(text)
    except ValueError:
        raise PublishError(f"`gh` did not print a list: {text[:200]!r}. Update gh.") from None
    return found


# --- Texts that others wrote ----------------------------------------------------------------------


def read_text(path: Path) -> str:
    """Read a file; nothing if there is none. A link could lead to a secret of this machine."""
    if path.is_symlink():
        raise PublishError(f"{str(path)!r}: is a link; gate the candidate again")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def defused(text: str) -> str:
    """Return Markdown without mentions, references, links, and HTML other than folding.

    A character of no width breaks them up, so that the text reads as before.
    """
    return _LIVE.sub(f"\\g<0>{_NO_WIDTH}", printable_lines(text))


def printable_lines(text: str) -> str:
    """Return text with the line ends and tabs of Markdown and no other control character."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", re.sub(r"\r\n?", "\n", text))


def defused_outside_code(text: str) -> str:
    """Return Markdown that is defused, but for blocks of code, which stay fit to be copied.

    Only a fence of three backticks after an empty line opens such a block: it does so for GitHub
    too, wherever it stands. Any other fence is broken up.
    """
    made: list[str] = []
    in_code, before = False, ""
    for line in printable_lines(text).split("\n"):
        if in_code or (re.fullmatch("```[A-Za-z]*", line) and not before.strip()):
            made.append(line)
            in_code = not (in_code and re.fullmatch(" {0,3}`{3,}[ \t]*", line))
        else:
            made.append(re.sub(r"^(?=[ \t]*(?:```|~~~))", _NO_WIDTH, defused(line)))
        before = line
    return "\n".join(made)


def fit(text: str, *, longest: int = LONGEST_BODY - 1000) -> str:
    """Cut the end off a Markdown text that is too long, say so, and close a block of code."""
    if len(text) <= longest:
        return text
    note = f"\n\nCut: GitHub takes {LONGEST_BODY:,} characters; the run's artifact has all."
    kept = text[: longest - len(note) - 4]
    is_open = len(re.findall(r"^ {0,3}```", kept, re.MULTILINE)) % 2
    return kept + ("\n```" if is_open else "") + note


if __name__ == "__main__":
    sys.exit(main())
