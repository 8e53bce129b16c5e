"""What GitHub Actions says of itself in the environment, and where it takes a run's verdict."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from peft_regress.files import append_bytes, write_atomic
from peft_regress.report.verdict.annotations import SourceLine

__all__ = ["is_github", "line_in_repository", "without_commands", "write_summary"]

_COMMAND: Final = re.compile(r"^(?P<blanks>[^\S\n]*)::|##\[", re.MULTILINE)
"""What the runner takes for a command: `::error::` that begins a line, `##[error]` anywhere."""


def is_github() -> bool:
    """Return whether this runs in a step of GitHub Actions, which reads annotations in the log."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def without_commands(text: str) -> str:
    """Return text for the log of a step, where no name or message from a file is a command.

    A blank parts what would begin one. Elsewhere text stays as it is.
    """
    if not is_github():
        return text
    return _COMMAND.sub(
        lambda found: "## [" if found["blanks"] is None else f"{found['blanks']}: :", text
    )


def line_in_repository(path: str, line: int | None, *, base: Path) -> SourceLine:
    """Return where a test stands in the checkout; `path` may be relative to `base`.

    A file elsewhere is none that GitHub knows.
    """
    checkout = Path(os.environ.get("GITHUB_WORKSPACE") or base)
    full = Path(os.path.normpath(base / path))
    is_inside = full.is_relative_to(checkout)
    path = full.relative_to(checkout).as_posix() if is_inside else ""
    return SourceLine(path, line if is_inside else None)


def write_summary(path: Path, text: str) -> None:
    """Write a summary; that of a step is added to, as the other commands of the step do."""
    of_step = os.environ.get("GITHUB_STEP_SUMMARY")
    is_of_step = of_step is not None and os.path.realpath(path) == os.path.realpath(of_step)
    (append_bytes if is_of_step else write_atomic)(path, text.encode())
