"""A worker process, seen from the process that starts it, asks it and always ends it."""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, Self, TypeVar

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.files import encoded
from peft_regress.processes import Process, variables
from peft_regress.text import clean
from peft_regress.workers.serve import PROTOCOL, Hello, Question, Reply

_Answer = TypeVar("_Answer")

_TAIL_BYTES: Final = 2**14
_LONGEST_ERROR_LINE: Final = 400
_DYING_SECONDS: Final = 10.0
_MODULE: Final = "peft_regress.workers.serve"


class InterpreterError(InputError):
    """An interpreter that cannot be used: it is absent, or has no peft_regress of this protocol."""

    def __init__(self, interpreter: str, problem: str) -> None:
        remedy = (
            "Name a Python interpreter with this peft_regress; "
            f"`{shlex.quote(interpreter)} -m pip install .` installs it, from its checkout"
        )
        super().__init__(f"{interpreter or repr('')}: {problem}. {remedy}")


class WorkerError(PeftRegressError):
    """A worker that refused a request, died, hung, or gave an answer of another kind."""


class WorkerTimeoutError(WorkerError):
    """A worker that is alive and does not answer in time."""


class RequestRefusedError(WorkerError):
    """A worker that answered that it cannot do what was asked."""


class WorkerProcess:
    """A worker process; whoever starts it closes it."""

    def __init__(
        self,
        interpreter: str,
        *,
        time_limit: float,
        folder: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        on_start: Callable[[Self], None] = lambda _: None,
    ) -> None:
        """Start a worker in an interpreter and wait for its greeting.

        No answer may take longer than `time_limit` seconds. `folder` is its working directory, by
        default that of this process; `environment` are variables beyond the usual. `on_start` is
        called before the wait for the greeting, so that another thread can end that wait. Raises
        `InterpreterError` if the interpreter has no such worker, or one of another protocol.
        """
        self.interpreter = interpreter
        self.time_limit = time_limit
        self._received = bytearray()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        try:
            # -P keeps the working directory off `sys.path`: the installed packages are what is
            # measured.
            self._process = Process(
                [interpreter, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=folder,
                env={**variables(), **environment},
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            problem = f"cannot be started: {getattr(error, 'strerror', None) or error}"
            raise InterpreterError(interpreter, problem) from None
        try:
            on_start(self)
            self.packages = self._greeting().packages
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def errors_end(self) -> int:
        """Where its standard error ends now, for `errors`."""
        return self._errors.seek(0, os.SEEK_END)

    def errors(self, since: int = 0) -> list[str]:
        """Return the last lines of its standard error, of those after a position."""
        self._errors.seek(max(self.errors_end - _TAIL_BYTES, since))
        return self._errors.read().decode(errors="replace").splitlines()

    def kill(self) -> None:
        """End the process and its children, also while another thread waits for an answer."""
        self._process.end()

    def close(self) -> None:
        """End the process and its children, and close its streams."""
        # A request that nobody reads any more cannot be flushed. A worker may be closed twice.
        with contextlib.suppress(OSError), contextlib.closing(self._errors), self._process:
            pass

    def _greeting(self) -> Hello:
        """Return the first line that is a greeting: a start-up file may print others before it."""
        deadline = time.monotonic() + self.time_limit
        while (line := self._line(deadline)) is not None:
            try:
                hello = msgspec.json.decode(line, type=Hello)
            except (ValueError, RecursionError):  # also for an invalid byte
                continue
            if hello.protocol != PROTOCOL:
                its = f"its peft-regress {hello.packages.get('peft-regress', 'unknown')}"
                problem = f"{its} has protocol {hello.protocol}, this one has {PROTOCOL}"
                raise InterpreterError(self.interpreter, problem)
            return hello
        problem = f"cannot run `-m {_MODULE}`: {self._last_error_line()}"
        if self._process.poll() is None:
            problem = f"no greeting of `-m {_MODULE}` within {self.time_limit:g} s"
        raise InterpreterError(self.interpreter, problem)

    def ask(self, function: str, request: object, answer: type[_Answer]) -> _Answer:
        """Let the worker call a function of one argument, and return what that returns.

        function: "module:function"; or "module:Class.method", of the one object of the class that
        the worker makes, without arguments, when it is first asked.

        Raises `RequestRefusedError` if the function raised something, `WorkerTimeoutError` if the
        worker is silent for too long, `WorkerError` if it has ended or answers anything else.
        """
        asked = Question(function=function, request=msgspec.Raw(encoded(request)))
        line = msgspec.json.encode(asked)
        deadline = time.monotonic() + self.time_limit
        assert self._process.stdin is not None  # noqa: S101  (it is a pipe)
        # If the worker has ended, the missing answer says so.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        received = self._line(deadline)
        if received is None:
            raise self._no_answer()
        try:
            reply = msgspec.json.decode(received, type=Reply)
            if reply.refused is not None:
                raise RequestRefusedError(f"{self.interpreter}: {clean(reply.refused)}")
            return msgspec.json.decode(reply.answer, type=answer)
        except (ValueError, RecursionError):  # also for an invalid byte
            text = clean(received.decode(errors="replace"))
            raise WorkerError(f"{self.interpreter}: its worker answered {text!r}") from None

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line; None at the deadline, or if there will be no more lines."""
        printed = self._process.printed(deadline)
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            read = next(printed, None)
            if read is None:
                self._process.ended(min(deadline, time.monotonic() + _DYING_SECONDS))
                return None
            self._received += read
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line if time.monotonic() < deadline else None

    def _no_answer(self) -> WorkerError:
        code = self._process.poll()
        if code is None:
            return WorkerTimeoutError(
                f"{self.interpreter}: no answer within {self.time_limit:g} s; "
                "allow more with --time-limit SECONDS"
            )
        ended = f"ended with exit code {code}"
        if code < 0:
            ended = f"was killed by {signal.Signals(-code).name}"
        return WorkerError(f"{self.interpreter}: its worker {ended}: {self._last_error_line()}")

    def _last_error_line(self) -> str:
        """Return the last line of its standard error: an exception's message."""
        lines = reversed(self.errors())
        last = next((line for line in lines if line.strip()), "no error message")
        return clean(last, longest=_LONGEST_ERROR_LINE)
