"""Run examples in another interpreter; one that ends or hangs the process is a finding, too."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.oracle.checks import CRASH
from peft_fuzz.search.causes import Cause, cause_of, is_known
from peft_fuzz.search.messages import Begin, Begun, Counts, Found, Live, Lived, Seek, Sought
from peft_fuzz.search.worker import IN_PROGRESS
from peft_regress.text import clean
from peft_regress.workers.pool import Environment, Seat, UnusableEnvironmentError
from peft_regress.workers.process import (
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)

LIFE_SECONDS: Final = 60.0
"""How long one life may take: a thousand times a usual one."""

START_SECONDS: Final = 300.0
_WORKER: Final = "peft_fuzz.search.worker"
_SIGNAL: Final = re.compile(r"was killed by (\w+)")
_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


class LifeWorker:
    """A worker that runs examples, started again after a life that ended it.

    As a context manager it is gone at the end. Another thread may `stop` it.
    """

    def __init__(
        self,
        python: Path,
        methods: Sequence[str],
        *,
        life_seconds: float = LIFE_SECONDS,
        seat: Seat | None = None,
        variables: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Use a seat, by default one in a folder of its own; `variables` are its worker's."""
        self.python = python
        self.methods = tuple(methods)
        self.life_seconds = life_seconds
        self._scratch = tempfile.TemporaryDirectory(prefix="peft-regress-")
        self._seat = seat or Seat(Path(self._scratch.name), time_limit=START_SECONDS)
        self._environment = Environment(
            python=python,
            libraries=("peft",),
            variables=(*variables, ("OMP_NUM_THREADS", "1")),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seat.close()
        self._scratch.cleanup()

    def stop(self) -> None:
        """End the process; what waits for an answer gets a `WorkerError`."""
        self._seat.stop()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._seat.is_stopped

    def begin(self) -> Begun:
        """Import the libraries.

        Raises `UnusableEnvironmentError` if they cannot be imported, or others than are installed,
        `WorkerError` if the worker was stopped.
        """
        process = self._seat.worker(self._environment)
        process.time_limit = START_SECONDS
        try:
            return process.ask(f"{_WORKER}:begin", Begin(methods=self.methods), Begun)
        except WorkerError as error:
            if self.is_stopped:
                raise
            raise UnusableEnvironmentError(str(error)) from None

    def live(self, example: Example) -> Outcome:
        """Run one example. Raises `WorkerError` if the worker refuses it or was stopped."""
        process = self._running()
        process.time_limit = self.life_seconds
        try:
            return process.ask(f"{_WORKER}:live", Live(example=example), Lived).outcome
        except RequestRefusedError:
            raise
        except WorkerError as error:
            if self.is_stopped:
                raise
            process.kill()
            return Outcome(failure=_crash(example, error), acts=len(example.acts))

    def seek(self, request: Seek) -> Sought:
        """Search; an example that ends the process is a finding if it does so again.

        Raises `RequestRefusedError` if the search itself failed, `WorkerError` if it was stopped.
        """
        process = self._running()
        process.time_limit = request.seconds + request.shrink_seconds + self.life_seconds
        try:
            return process.ask(f"{_WORKER}:seek", request, Sought)
        except RequestRefusedError:
            raise
        except WorkerError:
            if self.is_stopped:
                raise
            process.kill()
        return self._sought_after_crash(request.known)

    def example_in_progress(self) -> Example | None:
        """Return the example that the last search ran last."""
        try:
            content = (self._seat.folder / IN_PROGRESS).read_bytes()
            return msgspec.json.decode(content, type=Example)
        except (OSError, ValueError):
            return None

    def _sought_after_crash(self, known: Sequence[Cause]) -> Sought:
        example = self.example_in_progress()
        if example is None:
            raise WorkerError(f"{self.python}: its worker ended before it ran an example")
        lives = {example.method: 1}
        failure = self.live(example).failure
        if failure is None or failure.check != CRASH:
            return Sought(counts=Counts(lives=lives, unsteady=lives))
        cause = cause_of(example, failure)
        if is_known(cause, known):
            return Sought(counts=Counts(lives=lives, known=lives))
        found = Found(cause=cause, example=example, failure=failure)
        return Sought(counts=Counts(lives=lives), found=found)

    def _running(self) -> WorkerProcess:
        if self._seat.is_fresh(self._environment):
            if self.is_stopped:
                raise WorkerError(f"{self.python}: stopped")
            self.begin()
        return self._seat.worker(self._environment)


def _crash(example: Example, error: WorkerError) -> Failure:
    """Return the failure of an example that ended the process, or kept it from answering."""
    text = str(error)
    if isinstance(error, WorkerTimeoutError):
        kind = "TimeoutError"
        found = re.search(r"no answer within [\d.]+ s", text)
        message = f"the life did not end: {found[0] if found else clean(text)}"
    else:
        signal = _SIGNAL.search(text)
        kind = signal[1] if signal else "SystemExit"
        message = "the life ended the process: " + _FOLDERS.sub("", text.partition(": ")[2])
    # Which act it was is not known: it was one of them.
    last = len(example.acts) - 1
    return Failure(check=CRASH, act=last, error=kind, message=clean(message, longest=300))
