"""Processes of this package: what they inherit, and that they end with all that they started."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# They are for a test runner or a shell, not for the libraries.
_PRIVATE: Final = ("PYTEST_", "COV_CORE_", "PYTHONSTARTUP", "PYTHONINSPECT")
_MARK: Final = "PEFT_REGRESS_PROCESS"
"""The variable that every process has whose start goes back to a `Process`, however it left it."""
_READ_BYTES: Final = 2**16
_POLL_SECONDS: Final = 0.5
_MOST_SCANS: Final = 20


def variables() -> dict[str, str]:
    """Return this process's environment variables without those of a test runner."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    # No request to the hub: what is measured must not depend on a network. The wide filled loss is
    # of two threads: on a busy machine each would use up the core that the other one waits for.
    usual = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    return {**usual, **kept, "PYTHONHASHSEED": "0"}


class Process(subprocess.Popen[bytes]):
    """A process in a session of its own, out of reach of Ctrl-C; as a context manager it ends.

    With it ends what it started, processes in other sessions too. If this process dies, a guard
    ends them: a second process, so that the first one stays as it is.
    """

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str], **streams: Any) -> None:
        """Start a program with these variables. Raises `OSError` if it cannot be started."""
        self._mark = f"{os.environ.get(_MARK, '')}/{uuid.uuid4().hex}"
        marked = {**env, _MARK: self._mark}
        super().__init__(words, env=marked, start_new_session=True, **streams)
        guard = [sys.executable, "-P", __file__, str(os.getpid()), str(self.pid), self._mark]
        silent: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        unmarked = {**variables(), _MARK: ""}
        self._guard = subprocess.Popen(  # noqa: S603  (this file)
            guard, env=unmarked, start_new_session=True, **silent
        )

    def end(self) -> None:
        """Kill it and what it started, also while another thread waits for it."""
        if self._guard.returncode is None:  # later its number may be that of another group
            _end(self.pid, self._mark)
            self.wait()
            self._guard.kill()
            self._guard.wait()

    def __exit__(self, *raised: Any) -> None:  # noqa: PYI036
        self.end()
        super().__exit__(*raised)

    def printed(self, deadline: float) -> Iterator[bytes]:
        """Yield what it prints as it comes, until it ends or closes its output, or a deadline."""
        assert self.stdout is not None  # noqa: S101  (whoever calls this asked for a pipe)
        is_over = False
        while not is_over and (left := deadline - time.monotonic()) > 0:
            # Seen before the last read: what it started may hold the pipe open, and print on.
            is_over = self.poll() is not None
            wait = 0 if is_over else min(left, _POLL_SECONDS)
            if select.select([self.stdout], [], [], wait)[0]:
                read = os.read(self.stdout.fileno(), _READ_BYTES)
                if not read:
                    return
                yield read

    def ended(self, deadline: float) -> int | None:
        """Return its exit code, as soon as it has one; None at the deadline."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(max(0, deadline - time.monotonic()))
        return None


def _end(group: int, mark: str) -> None:
    """Kill a process group, and what left it but kept its variables."""
    import psutil  # 40 ms

    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    # A process may start another one just before it is killed.
    for _ in range(_MOST_SCANS):
        found = False
        for pid in psutil.pids():
            # It has ended meanwhile, or is another user's.
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.environ().get(_MARK, "").startswith(mark):
                    process.kill()
                    found = True
        if not found:
            return


if __name__ == "__main__":
    parent, guarded, mark_of_guarded = sys.argv[1:]
    # No pipe: a fork of the parent would hold its other end.
    while os.getppid() == int(parent):
        time.sleep(_POLL_SECONDS)
    _end(int(guarded), mark_of_guarded)
