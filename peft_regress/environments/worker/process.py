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
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Self

import msgspec

from peft_regress.environments.worker.messages import Hello, Refused
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.text import clean, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

__all__ = ["InterpreterError", "WorkerError", "WorkerProcess", "WorkerTimeoutError"]

_LONGEST_LINE: Final = 2**26
_READ_BYTES: Final = 2**16
_TAIL_BYTES: Final = 2**13
_DYING_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.5
_WANTED: Final = "A Python interpreter is wanted, such as .venv/bin/python"


class InterpreterError(InputError):
    """An interpreter that cannot be used at all: absent, or without this peft_regress."""

    def __init__(self, interpreter: str, problem: str, remedy: str) -> None:
        self.interpreter = interpreter
        self.problem = problem
        super().__init__(printable(f"{interpreter or repr('')}: {problem}. {remedy}"))


class WorkerError(PeftRegressError):
    """A worker that refused a case, died or hung in the middle of it, or said something else."""


class WorkerTimeoutError(WorkerError):
    """A worker that is alive and does not answer in time."""


class WorkerProcess:
    """A worker process; as a context manager it is gone at the end, whatever happens.

    A subclass says which module is run, which protocol and which answers it speaks, and has a
    method for each request.
    """

    module: ClassVar[str]
    protocol: ClassVar[int]
    answers: ClassVar[Any]

    def __init__(
        self,
        interpreter: str,
        *,
        time_limit: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        started: Callable[[Self], None] = lambda _: None,
    ) -> None:
        """Start the process and wait for its greeting.

        No answer may take longer than `time_limit` seconds. `folder` is its working directory and
        `environment` its variables, where they are to be others than here. `started` is told of it
        before the greeting, so that another thread can end that wait, too. Raises
        `InterpreterError` where the interpreter has no worker that speaks this protocol.
        """
        self.interpreter = interpreter
        self._time_limit = time_limit
        self._received = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        try:
            self._process = _start(
                [interpreter, "-P", "-m", self.module],
                errors=self._errors,
                folder=folder,
                environment=environment,
            )
        except BaseException:
            self._errors.close()
            raise
        try:
            started(self)
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

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process and all that it started; another thread may be waiting for an answer."""
        with contextlib.suppress(ProcessLookupError):
            # It leads a group of its own: an interpreter may be a script that starts another one.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process and all that it started, and close its streams."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                # A request that nobody reads any more cannot be flushed.
                with contextlib.suppress(OSError):
                    stream.close()

    def _greeting(self) -> Hello:
        """Skip what a start-up file may print, and return the first line that is a greeting."""
        deadline = time.monotonic() + self._time_limit
        while (line := self._line(deadline)) is not None:
            try:
                hello = msgspec.json.decode(line, type=Hello)
            except msgspec.DecodeError:
                continue
            if hello.protocol != self.protocol:
                version = hello.packages.get("peft-regress", "unknown")
                problem = (
                    f"its peft-regress {version} speaks protocol {hello.protocol}, this one "
                    f"{self.protocol}"
                )
                raise InterpreterError(self.interpreter, problem, self._install())
            return hello
        if self._process.poll() is None:
            problem = f"no greeting of `-m {self.module}` within {self._time_limit:g} s"
            raise InterpreterError(self.interpreter, problem, "Name a Python interpreter")
        problem = f"cannot run `-m {self.module}`: {self._last_words()}"
        raise InterpreterError(self.interpreter, problem, self._install())

    def _install(self) -> str:
        command = f"{shlex.quote(self.interpreter)} -m pip install ."
        return f"Install this peft_regress there, from its checkout: `{command}`"

    def _ask(self, request: msgspec.Struct) -> Any:
        """Send a request and return its first answer, one of `answers`; raises `WorkerError`."""
        stream = self._process.stdin
        deadline = time.monotonic() + self._time_limit
        if stream is not None:
            # A worker that has died is told by its answer, which does not come.
            with contextlib.suppress(BrokenPipeError):
                stream.write(msgspec.json.encode(request) + b"\n")
                stream.flush()
            return self._answer(deadline)
        raise self._silent()

    def _next_answer(self) -> Any:
        """Return what it says next to the same request; raises `WorkerError`."""
        return self._answer(time.monotonic() + self._time_limit)

    def _answer(self, deadline: float) -> Any:
        line = self._line(deadline)
        if line is None:
            raise self._silent()
        try:
            return msgspec.json.decode(line, type=self.answers)
        except msgspec.DecodeError:
            said = clean(line.decode(errors="replace"))
            msg = f"{self.interpreter}: its worker answered {said!r}"
            raise WorkerError(msg) from None

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line; None at the deadline, or where there will be no more."""
        pipe = self._process.stdout
        if pipe is None:
            return None
        while b"\n" not in self._received[:_LONGEST_LINE]:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._received) > _LONGEST_LINE:
                return None
            if not select.select([pipe], [], [], min(left, _POLL_SECONDS))[0]:
                # A process that it forked may hold the pipe open after its end.
                if not self.is_alive:
                    return None
            else:
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
            return WorkerTimeoutError(
                f"{self.interpreter}: no answer within {self._time_limit:g} s; "
                "allow more with --time-limit SECONDS"
            )
        ended = (
            f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        )
        return WorkerError(f"{self.interpreter}: its worker {ended}: {self._last_words()}")

    def _unexpected(self, answer: Any) -> WorkerError:
        said = answer.error if isinstance(answer, Refused) else f"answered {answer}"
        return WorkerError(f"{self.interpreter}: {clean(said)}")

    def _last_words(self) -> str:
        """Return the last line of its standard error, where an error's message stands."""
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(end - _TAIL_BYTES, 0))
        lines = self._errors.read().decode(errors="replace").splitlines()
        return clean(next((line for line in reversed(lines) if line.strip()), "it said nothing"))


def _start(
    command: list[str],
    *,
    errors: IO[bytes],
    folder: Path | None,
    environment: Mapping[str, str] | None,
) -> subprocess.Popen[bytes]:
    """Start the worker in a process group of its own, out of reach of Ctrl-C.

    `-P` keeps the working directory off its path: what is measured is what is installed there.
    """
    interpreter = command[0]
    if os.name != "posix":
        msg = f"another interpreter is asked by the process groups of POSIX; this is {os.name!r}"
        raise InputError(msg)
    _check_program(interpreter)
    try:
        return subprocess.Popen(  # noqa: S603  (to run what was named is the purpose)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd=folder,
            env=None if environment is None else dict(environment),
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
