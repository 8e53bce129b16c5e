"""What the publishing tools share: a run's results, commands, and texts of limited length."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_BODY: Final = 65_536
"""GitHub's limit for the body of an issue or a pull request, in characters."""
_FENCE: Final = "```"
_LARGEST_BYTES: Final = 2**24


class PublishError(Exception):
    """Something cannot be published; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The files of one run of `peft-regress upgrade`."""

    folder: Path
    requirements: tuple[str, ...]
    exit_code: int
    findings: str
    """Markdown; empty if the run wrote none."""

    @property
    def run_file(self) -> Path:
        """The run file of the candidate."""
        return self.folder / "run.json"

    @property
    def candidate(self) -> str:
        """The requirements on one line."""
        return ", ".join(self.requirements)


@dataclass(frozen=True, kw_only=True)
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
            raise PublishError(
                f"`{shown}` failed (exit code {ended.returncode}): {output}{_remedy(command[0])}"
            )
        return ended.stdout


def _remedy(program: str) -> str:
    return "\n`gh auth status` shows your login and its permissions." if program == "gh" else ""


def read_results(folder: Path) -> Results:
    """Read a folder of results. Raises `PublishError` if a file is missing or has another form."""
    code = read_text(folder / "exit-code").strip()
    if not code.isdecimal():
        raise PublishError(
            f"{folder / 'exit-code'}: {code[:40]!r} is not an exit code; gate the candidate again"
        )
    requirements = tuple(read_text(folder / "requirements.txt").split("\n"))
    requirements = tuple(line for line in requirements if line and line.isprintable())
    if not requirements:
        raise PublishError(
            f"{folder / 'requirements.txt'}: names no requirement; gate the candidate again"
        )
    findings = folder / "findings.md"
    return Results(
        folder=folder,
        requirements=requirements,
        exit_code=int(code),
        findings=read_text(findings).strip() if os.path.lexists(findings) else "",
    )


def read_text(path: Path, *, remedy: str = "Name the folder that the gate's action kept.") -> str:
    """Read a file of a run as text, at most 16 MiB of it.

    Raises `PublishError` if it cannot be read or is not a regular file: a link could lead to a
    secret of the publishing machine.
    """

    def without_following(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    try:
        with open(path, "rb", opener=without_following) as stream:
            if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return stream.read(_LARGEST_BYTES).decode(errors="replace")
            problem = "not a regular file"
    except OSError as error:
        problem = f"{error.strerror}"
    raise PublishError(f"{path}: cannot be read ({problem}). {remedy}")


def fit(text: str, *, longest: int) -> str:
    """Cut the end off a Markdown text so that it has at most `longest` characters, and say so.

    The first line stays, unless it is too long itself. A code block that is cut is closed.
    """
    if len(text) <= longest:
        return text
    limit = f"GitHub takes {LONGEST_BODY:,} characters"
    note = f"\n\nCut: {limit}; the run's artifact has all {len(text):,}."
    room = longest - len(note) - len(f"\n{_FENCE}")
    kept = text[:room]
    # Whole lines, unless that leaves less than half, as with a single long line.
    end = kept.rfind("\n")
    if end > room // 2:
        kept = kept[:end]
    fences = [line for line in kept.split("\n") if line.lstrip().startswith(_FENCE)]
    closed = f"{kept}\n{_FENCE}" if len(fences) % 2 else kept
    return closed + note


def link_to_run() -> str:
    """Return a sentence with a link to this run of the workflow; outside of one, nothing."""
    server, repository, run = (
        os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    if not (server and repository and run):
        return ""
    return (
        f"\n\nThe run file is an artifact of [this run]({server}/{repository}/actions/runs/{run})."
    )
