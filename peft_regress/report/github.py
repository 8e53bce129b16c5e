"""What GitHub Actions tells a step by its environment, and where a step's verdict goes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from peft_regress.files import append_bytes, write_atomic
from peft_regress.report.verdict.annotations import SourceLine
from peft_regress.text import printable, visible

_COMMAND: Final = re.compile(r"^(?P<blanks>[^\S\n]*)::|##\[", re.MULTILINE)
"""What the runner takes for a command: `::error::` at the start of a line, `##[error]` anywhere."""


def is_github() -> bool:
    """Return whether this is a step of GitHub Actions, whose log may contain annotations."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def in_log(text: str, *, styles: bool = False) -> str:
    """Return lines of text as they may stand in a log, wherever their strings come from.

    Whatever is printed passes through here, but data and annotations. Control characters are
    escaped; `styles` may stay. In a step of GitHub Actions a blank breaks up what the runner would
    take for a command.
    """
    text = visible(text, styles=styles)
    if not is_github():
        return text
    return _COMMAND.sub(
        lambda found: "## [" if found["blanks"] is None else f"{found['blanks']}: :", text
    )


def line_in_log(text: str) -> str:
    """Return a message as one line that may stand in a log."""
    return in_log(printable(text))


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
    """Write a summary, or append it if the file is that of the step, which other commands share."""
    of_step = os.environ.get("GITHUB_STEP_SUMMARY")
    is_of_step = of_step is not None and os.path.realpath(path) == os.path.realpath(of_step)
    (append_bytes if is_of_step else write_atomic)(path, text.encode())
