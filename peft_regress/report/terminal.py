"""Standard output and standard error, and what a log of GitHub Actions may hold."""

import errno
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from peft_regress.files import write_atomic
from peft_regress.report.document import Document, as_text
from peft_regress.report.layout import PLAIN, Layout
from peft_regress.report.markdown import as_markdown
from peft_regress.text import printable, visible

_NARROWEST = 20
_COMMAND: Final = re.compile(r"^(?P<blanks>[^\S\n]*)::|##\[", re.MULTILINE)
"""What the runner takes for a command: `::error::` at the start of a line, `##[error]` anywhere."""


def stdout_layout() -> Layout:
    """Return the layout of standard output; with colour only on a terminal that wants it."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return layout_of(colour=is_terminal and is_wanted)


def layout_of(*, colour: bool) -> Layout:
    """Return the layout of the terminal. Other streams have no width; COLUMNS counts for both."""
    columns = shutil.get_terminal_size(fallback=(PLAIN.width, 24)).columns
    return Layout(width=max(columns, _NARROWEST), colour=colour)


def discard_stream(*streams: Any) -> None:
    """Keep Python from writing again, at exit, what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def print_progress(text: str) -> None:
    """Print progress on standard error. If nobody reads it, the work goes on."""
    try:
        say(text, err=True)
    except OSError:
        discard_stream(sys.stderr)


def echo(text: str = "", *, err: bool = False, nl: bool = True, layout: Layout = PLAIN) -> None:
    """Print lines of text at once, as they may stand in a log; on a closed error stream, nowhere.

    Whatever a command prints passes through here. `click.echo` would write UTF-8 to a stream that
    asks for ASCII. Raises `OSError` if standard output cannot be written.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None and not err:
        raise OSError(errno.EBADF, "closed")
    # `print` takes None for standard output, and a message would spoil the data there.
    if stream is not None:
        shown = in_log(text, styles=layout.colour)
        print(shown, file=stream, end="\n" if nl else "", flush=True)


def say(text: str, *, err: bool = False) -> None:
    """Print a message on one line: a name in it may hold a line break."""
    echo(printable(text), err=err)


def show(document: Document, form: str) -> None:
    """Print a document: as `markdown`, else as text that fits the terminal."""
    layout = stdout_layout()
    text = as_markdown(document) if form == "markdown" else as_text(document, layout)
    echo(text, layout=layout)


def write_markdown(path: Path, document: Document) -> None:
    """Write a document to a file as Markdown."""
    write_atomic(path, f"{as_markdown(document)}\n".encode())


def in_log(text: str, *, styles: bool = False) -> str:
    """Return lines of text as they may stand in a log, wherever their strings come from.

    Control characters are escaped; `styles` may stay. In a step of GitHub Actions a blank breaks up
    what the runner would take for a command.
    """
    text = visible(text, styles=styles)
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return text
    return _COMMAND.sub(
        lambda found: "## [" if found["blanks"] is None else f"{found['blanks']}: :", text
    )


def write_summary(path: Path, text: str) -> None:
    """Write a summary, or append it if the file is that of the step, which other commands share."""
    of_step = os.environ.get("GITHUB_STEP_SUMMARY")
    is_of_step = of_step is not None and os.path.realpath(path) == os.path.realpath(of_step)
    before = path.read_bytes() if is_of_step and path.exists() else b""
    write_atomic(path, before + text.encode())
