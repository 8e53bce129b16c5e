"""What the tools that publish share: results of a run, commands, and bodies that GitHub takes."""

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
"""Characters that GitHub takes as the body of an issue or a pull request."""
_FENCE: Final = "```"
_LARGEST_BYTES: Final = 2**24


class PublishError(Exception):
    """Something that cannot be published; the message says what, and what mends it."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one run of `peft-regress upgrade` left; `findings` is empty where it wrote none."""

    folder: Path
    requirements: tuple[str, ...]
    exit_code: int
    findings: str

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
    """Runs commands, or only prints them."""

    dry_run: bool = False

    def run(self, *command: str, stdin: str = "") -> str:
        """Return the output of a command; of a dry run, nothing.

        Raises `PublishError` with what the command said where it fails.
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
            msg = f"`{command[0]}` cannot be run ({error.strerror}): install it, or use --dry-run"
            raise PublishError(msg) from error
        if ended.returncode:
            said = ended.stderr.strip() or ended.stdout.strip() or "it said nothing"
            msg = f"`{shown}` failed (exit code {ended.returncode}): {said}{_remedy(command[0])}"
            raise PublishError(msg)
        return ended.stdout


def _remedy(program: str) -> str:
    return "\n`gh auth status` says who you are, and what you may." if program == "gh" else ""


def read_results(folder: Path) -> Results:
    """Read the folder of results; raise `PublishError` where it is none."""
    code = read_text(folder / "exit-code").strip()
    if not code.isdecimal():
        msg = f"{folder / 'exit-code'}: {code[:40]!r} is no exit code; gate the candidate anew"
        raise PublishError(msg)
    requirements = tuple(read_text(folder / "requirements.txt").split("\n"))
    requirements = tuple(line for line in requirements if line and line.isprintable())
    if not requirements:
        msg = f"{folder / 'requirements.txt'}: names no requirement; gate the candidate anew"
        raise PublishError(msg)
    findings = folder / "findings.md"
    return Results(
        folder=folder,
        requirements=requirements,
        exit_code=int(code),
        findings=read_text(findings).strip() if os.path.lexists(findings) else "",
    )


def read_text(path: Path, *, remedy: str = "Name the folder that the gate's action kept.") -> str:
    """Read what a run left, as text, as far as it is of a sensible size.

    Raises `PublishError` where it cannot be read, or is no file: a link could lead to a secret of
    the machine that publishes.
    """

    def without_following(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    try:
        with open(path, "rb", opener=without_following) as stream:
            if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return stream.read(_LARGEST_BYTES).decode(errors="replace")
            problem = "it is no file"
    except OSError as error:
        problem = f"{error.strerror}"
    msg = f"{path}: cannot be read ({problem}). {remedy}"
    raise PublishError(msg)


def fit(text: str, *, longest: int) -> str:
    """Cut a Markdown text to so many characters, from its end, and say so where it is cut.

    The first line stays, unless it alone is too long; a code block that is cut is closed.
    """
    if len(text) <= longest:
        return text
    limit = f"GitHub takes {LONGEST_BODY:,} characters"
    note = f"\n\nCut: {limit}; the run's artifact has all {len(text):,}."
    room = longest - len(note) - len(f"\n{_FENCE}")
    kept = text[:room]
    # Whole lines, unless that would leave less than half, as a single long line does.
    end = kept.rfind("\n")
    if end > room // 2:
        kept = kept[:end]
    fences = [line for line in kept.split("\n") if line.lstrip().startswith(_FENCE)]
    closed = f"{kept}\n{_FENCE}" if len(fences) % 2 else kept
    return closed + note


def link_to_run() -> str:
    """Say which run of the workflow this is, as a Markdown sentence; nothing outside of one."""
    server, repository, run = (
        os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    if not (server and repository and run):
        return ""
    return (
        f"\n\nThe run file is an artifact of [this run]({server}/{repository}/actions/runs/{run})."
    )
