"""Standard output and standard error: what they can show, how to write to them, time left."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from peft_regress.files import write_atomic
from peft_regress.report.document import Document, as_text
from peft_regress.report.github import in_log
from peft_regress.report.layout import PLAIN, Layout
from peft_regress.report.markdown import as_markdown
from peft_regress.text import printable

_NARROWEST = 20


def stdout_layout() -> Layout:
    """Return the layout of standard output; with colour only on a terminal that wants it."""
    stream = sys.stdout
    coloured = (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
    return layout_of(stream, colour=coloured)


def layout_of(stream: Any, *, colour: bool, ascii_only: bool = False) -> Layout:
    """Return the layout of a stream: as wide as the terminal."""
    # A stream that is no terminal has no width. The variable COLUMNS counts for both.
    columns = shutil.get_terminal_size(fallback=(PLAIN.width, 24)).columns
    return Layout(
        width=max(columns, _NARROWEST),
        colour=colour,
        encoding="ascii" if ascii_only else getattr(stream, "encoding", None) or PLAIN.encoding,
    )


def escape_unencodable() -> None:
    """Escape letters that standard output cannot hold, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def as_ascii() -> None:
    """Escape non-ASCII characters on both streams."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="ascii", errors="backslashreplace")


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

    Whatever a command prints passes through here, but the data of `export`. `click.echo` would
    write UTF-8 to a stream that asks for ASCII. Raises `OSError` if standard output cannot be
    written.
    """
    stream = sys.stderr if err else standard_output()
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


def standard_output() -> TextIO:
    """Return standard output. Raises `OSError` if the process was started without it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "closed")
    return sys.stdout


_MINUTE: Final = 60
_HOUR: Final = 3600
_ROUND_SECONDS: Final = 5


class Pace:
    """The time left while cases end one by one."""

    def __init__(self) -> None:
        self.first = 0.0

    def left(self, done: int, count: int, now: float) -> str:
        """Return ', about 4 min left'; '' after the first case and the last."""
        if done <= 1:
            self.first = now
        if done <= 1 or done >= count:
            return ""
        return f", {time_left((now - self.first) / (done - 1) * (count - done))} left"


def time_left(seconds: float) -> str:
    """Return a time as people give it: 'about 40 s', 'about 12 min', 'about 1 h 10 min'."""
    if seconds < _MINUTE - _ROUND_SECONDS / 2:
        return f"about {max(_ROUND_SECONDS * round(seconds / _ROUND_SECONDS), _ROUND_SECONDS)} s"
    hours, minutes = divmod(round(seconds / _MINUTE), _HOUR // _MINUTE)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"
