"""A terminal for tests: the lines and colours that a program prints there."""

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
    *("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS", "TOX_ENV_DIR"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"),
}
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Run a command in a terminal of a given size, and read what it printed."""

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
        return _STYLE.sub("", self.output).splitlines()
