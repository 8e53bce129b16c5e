"""A terminal for tests: it shows what a reader would see of a program's output."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from typing import Final

_OF_OTHERS: Final = {
    "CI",
    "BUILD_NUMBER",
    "PYTEST_ADDOPTS",
    "TOX_ENV_DIR",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "PY_COLORS",
}

_TOKEN: Final = re.compile(
    r"\x1b\[(?P<numbers>[0-9;]*)(?P<final>[A-Za-z])"  # CSI
    r"|\x1b\](?P<title>.*?)(?:\x07|\x1b\\)"  # OSC
    r"|\x1b(?P<single>[78DM])"
    r"|(?P<control>[\r\n\x08\x07])"
    r"|(?P<letter>[^\x00-\x1f])",
    re.DOTALL,
)


class Screen:
    """Rows of text with a cursor, and the rows that scrolled away above.

    An unknown sequence raises an error, so that no test passes because a code was overlooked.
    """

    def __init__(self, *, rows, columns):
        self.rows, self.columns = rows, columns
        self.lines = [[" "] * columns for _ in range(rows)]
        self.above: list[str] = []
        self.row = self.column = 0
        self.saved = (0, 0)

    def feed(self, text):
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"unknown: {text[position : position + 12]!r}")
            self._apply(match)
            position = match.end()

    @property
    def text(self):
        """All text that was shown and not erased, without blanks at the ends of lines."""
        shown = [*self.above, *("".join(line).rstrip() for line in self.lines)]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def _apply(self, match):
        if match["letter"]:
            self._put(match["letter"])
        elif match["control"]:
            self._control(match["control"])
        elif match["single"] == "7":
            self.saved = (self.row, self.column)
        elif match["single"] == "8":
            self.row, self.column = self.saved
        elif match["single"] == "D":
            self._down()
        elif match["final"]:
            self._move(match["final"], match["numbers"])

    def _put(self, letter):
        if self.column == self.columns:
            self.column = 0
            self._down()
        self.lines[self.row][self.column] = letter
        self.column += 1

    def _control(self, control):
        if control == "\r":
            self.column = 0
        elif control == "\n":
            self._down()
        elif control == "\x08":
            self.column = max(self.column - 1, 0)

    def _down(self):
        if self.row < self.rows - 1:
            self.row += 1
            return
        self.above.append("".join(self.lines.pop(0)).rstrip())
        self.lines.append([" "] * self.columns)

    def _move(self, final, numbers):
        count = int(numbers or 1) if final in "AB" else int(numbers or 0) if final == "K" else 0
        if final == "A":
            self.row = max(self.row - count, 0)
        elif final == "B":
            self.row = min(self.row + count, self.rows - 1)
        elif final == "K":
            start = 0 if count == 2 else self.column
            self.lines[self.row][start:] = [" "] * (self.columns - start)
        elif final != "m":
            raise ValueError(f"unknown: CSI {numbers}{final}")


class Terminal:
    """Run a command in a terminal of a given size, and read the screen."""

    def __init__(self, *, rows=24, columns=80):
        self.rows, self.columns = rows, columns
        self.output = ""

    def run(self, *command, cwd, environment=None):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", self.rows, self.columns, 0, 0))
        kept = {name: text for name, text in os.environ.items() if name not in _OF_OTHERS}
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, "TERM": "xterm-256color", **(environment or {})},
        )
        os.close(theirs)
        chunks = []
        # After the last write, a terminal raises an error on Linux, and ends elsewhere.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        os.close(ours)
        self.output = b"".join(chunks).decode()
        return process.wait()

    def screen(self):
        """Return the final screen."""
        screen = Screen(rows=self.rows, columns=self.columns)
        screen.feed(self.output)
        return screen.text

    def moments(self):
        """Return the screen after each time that the cursor was restored."""
        screen = Screen(rows=self.rows, columns=self.columns)
        shown = []
        for part in self.output.split("\x1b8")[:-1]:
            screen.feed(f"{part}\x1b8")
            shown.append(screen.text)
        return shown
