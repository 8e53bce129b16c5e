"""Standard output and error: what they can show, and writing to them."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from typing import Any, TextIO

from peft_regress.report.layout import PLAIN, Layout

__all__ = [
    "as_ascii",
    "discard_stream",
    "echo",
    "escape_unencodable",
    "layout_of",
    "print_progress",
    "standard_output",
    "stdout_layout",
]

_NARROWEST = 20


def stdout_layout() -> Layout:
    """Return what standard output can show; colour only on a terminal that wants it."""
    stream = sys.stdout
    coloured = (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
    return layout_of(stream, colour=coloured)


def layout_of(stream: Any, *, colour: bool, ascii_only: bool = False) -> Layout:
    """Return the look of a stream: as wide as the terminal, but no wider than a page."""
    # What is no terminal has no width; COLUMNS is believed of both.
    columns = shutil.get_terminal_size(fallback=(PLAIN.width, 24)).columns
    return Layout(
        width=min(max(columns, _NARROWEST), PLAIN.width),
        colour=colour,
        encoding="ascii" if ascii_only else getattr(stream, "encoding", None) or PLAIN.encoding,
    )


def escape_unencodable() -> None:
    """Let what standard output cannot hold be written as an escape instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def as_ascii() -> None:
    """Let both streams write ASCII alone, the rest as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="ascii", errors="backslashreplace")


def discard_stream(*streams: Any) -> None:
    """Keep Python from trying once more, at exit, to write what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def print_progress(text: str) -> None:
    """Print on standard error how the work goes on; where nobody can read it the work does."""
    try:
        echo(text, err=True)
    except OSError:
        discard_stream(sys.stderr)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text, as it is and at once; on a closed error stream, nowhere.

    Not by `click.echo`, which writes UTF-8 to a stream that asks for ASCII. Raises `OSError` where
    it cannot be written.
    """
    stream = sys.stderr if err else standard_output()
    # `print` takes None for standard output, which may hold data that a message would spoil.
    if stream is not None:
        print(text, file=stream, end="\n" if nl else "", flush=True)


def standard_output() -> TextIO:
    """Return standard output; raises `OSError` where the process was started without one."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "closed")
    return sys.stdout
