"""One worker process as the conductor sees it: started, asked, and never left behind."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import clean, printable
from peft_regress.timing.messages import (
    PROTOCOL,
    Answer,
    Block,
    Hello,
    Prepare,
    Prepared,
    Refused,
    Restart,
    Restarted,
    Timed,
)

if TYPE_CHECKING:
    from types import TracebackType

    from peft_regress.timing.messages import Request

__all__ = ["InterpreterError", "Worker", "WorkerError"]

_MODULE: Final = "peft_regress.timing.worker"
_LONGEST_LINE: Final = 2**20
_READ_BYTES: Final = 2**16
_TAIL_BYTES: Final = 2**13
_DYING_SECONDS: Final = 10.0
_WANTED: Final = "A Python interpreter is wanted, such as .venv/bin/python"


class InterpreterError(InputError):
    """An interpreter that cannot be used at all: absent, or without this peft_regress."""

    def __init__(self, interpreter: str, problem: str, remedy: str) -> None:
        self.interpreter = interpreter
        self.problem = problem
        super().__init__(printable(f"{interpreter or repr('')}: {problem}. {remedy}"))


class WorkerError(PeftRegressError):
    """A worker that refused a case, died or hung in the middle of it, or said something else."""


class Worker:
    """A worker process; as a context manager it is gone at the end, whatever happens."""

    def __init__(self, interpreter: str, *, time_limit: float) -> None:
        """Start the process and wait for its greeting.

        No answer may take longer than `time_limit` seconds. Raises `InterpreterError` where the
        interpreter has no worker that speaks this protocol.
        """
        self.interpreter = interpreter
        self._time_limit = time_limit
        self._received = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        try:
            self._process = _start(interpreter, errors=self._errors)
        except BaseException:
            self._errors.close()
            raise
        try:
            self.packages = self._greeting().packages
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            # It leads a group of its own: an interpreter may be a script that starts another one.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                # A request that nobody reads any more cannot be flushed.
                with contextlib.suppress(OSError):
                    stream.close()

    def prepare(self, case: str, *, baselines: Path) -> str:
        """Get ready for a case and return its definition; raises `WorkerError`."""
        answer = self._ask(Prepare(case=case, baselines=str(baselines.absolute())))
        if not isinstance(answer, Prepared):
            raise self._unexpected(answer)
        return answer.definition

    def restart(self, *, seed: int) -> None:
        """Begin the brief fine-tune of a seed anew; raises `WorkerError`."""
        answer = self._ask(Restart(seed=seed))
        if not isinstance(answer, Restarted):
            raise self._unexpected(answer)

    def time_block(self, *, steps: int) -> list[float]:
        """Take its next steps and return the seconds of each; raises `WorkerError`."""
        answer = self._ask(Block(steps=steps))
        if not isinstance(answer, Timed) or len(answer.step_seconds) != steps:
            raise self._unexpected(answer)
        return answer.step_seconds

    def _greeting(self) -> Hello:
        """Skip what a start-up file may print, and return the first line that is a greeting."""
        deadline = time.monotonic() + self._time_limit
        while (line := self._line(deadline)) is not None:
            try:
                hello = msgspec.json.decode(line, type=Hello)
            except msgspec.DecodeError:
                continue
            if hello.protocol != PROTOCOL:
                version = hello.packages.get("peft-regress", "unknown")
                problem = (
                    f"its peft-regress {version} times by protocol {hello.protocol}, this one by "
                    f"{PROTOCOL}"
                )
                raise InterpreterError(self.interpreter, problem, self._install())
            return hello
        if self._process.poll() is None:
            problem = f"no greeting of `-m {_MODULE}` within {self._time_limit:g} s"
            raise InterpreterError(self.interpreter, problem, "Name a Python interpreter")
        problem = f"cannot run `-m {_MODULE}`: {self._last_words()}"
        raise InterpreterError(self.interpreter, problem, self._install())

    def _install(self) -> str:
        command = f"{shlex.quote(self.interpreter)} -m pip install ."
        return f"Install this peft_regress there, from its checkout: `{command}`"

    def _ask(self, request: Request) -> Answer:
        stream = self._process.stdin
        deadline = time.monotonic() + self._time_limit
        line = None
        if stream is not None:
            # A worker that has died is told by its answer, which does not come.
            with contextlib.suppress(BrokenPipeError):
                stream.write(msgspec.json.encode(request) + b"\n")
                stream.flush()
            line = self._line(deadline)
        if line is None:
            raise self._silent()
        try:
            answer: Answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError:
            said = clean(line.decode(errors="replace"))
            msg = f"{self.interpreter}: its worker answered {said!r}"
            raise WorkerError(msg) from None
        return answer

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line; None at the deadline, or where there will be no more."""
        pipe = self._process.stdout
        if pipe is None:
            return None
        while b"\n" not in self._received[:_LONGEST_LINE]:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._received) > _LONGEST_LINE:
                return None
            if select.select([pipe], [], [], left)[0]:
                read = os.read(pipe.fileno(), _READ_BYTES)
                if not read:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(_DYING_SECONDS)
                    return None
                self._received += read
        line, _, self._received = self._received.partition(b"\n")
        return line if time.monotonic() < deadline else None

    def _silent(self) -> WorkerError:
        code = self._process.poll()
        if code is None:
            return WorkerError(
                f"{self.interpreter}: no answer within {self._time_limit:g} s; "
                "allow more with --time-limit SECONDS"
            )
        ended = (
            f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        )
        return WorkerError(f"{self.interpreter}: its worker {ended}: {self._last_words()}")

    def _unexpected(self, answer: Answer) -> WorkerError:
        said = answer.error if isinstance(answer, Refused) else f"answered {answer}"
        return WorkerError(f"{self.interpreter}: {clean(said)}")

    def _last_words(self) -> str:
        """Return the last line of its standard error, where an error's message stands."""
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(end - _TAIL_BYTES, 0))
        lines = self._errors.read().decode(errors="replace").splitlines()
        return clean(next((line for line in reversed(lines) if line.strip()), "it said nothing"))


def _start(interpreter: str, *, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the worker in a process group of its own, out of reach of Ctrl-C.

    `-P` keeps the working directory off its path: what is timed is what is installed there.
    """
    if os.name != "posix":
        msg = f"peft-regress time needs the process groups of POSIX; this is {os.name!r}"
        raise InputError(msg)
    _check_program(interpreter)
    try:
        return subprocess.Popen(  # noqa: S603  (to run what was named is the purpose)
            [interpreter, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        problem = f"cannot be started: {error.strerror or error}"
        raise InterpreterError(interpreter, problem, _WANTED) from None


def _check_program(interpreter: str) -> None:
    path = Path(interpreter)
    if "\0" in interpreter or not interpreter:
        problem = "is no name of a program"
    elif path.is_dir():
        problem = "is a folder"
    elif shutil.which(interpreter) is not None:
        return
    elif path.exists():
        problem = "is not executable"
    else:
        problem = "there is no such program"
    raise InterpreterError(interpreter, problem, _WANTED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
