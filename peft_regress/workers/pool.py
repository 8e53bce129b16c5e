"""Futures for what workers do, several at once, in whichever environments."""

import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar

import msgspec

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.overlay.pip import Planned
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.schema import Machine
from peft_regress.workers.serve import Functions, Import, Imported
from peft_regress.workers.worker import InterpreterError, WorkerError, WorkerProcess

if TYPE_CHECKING:
    from peft_regress.workers.cluster import DaskPool

_Answer = TypeVar("_Answer", bound=msgspec.Struct)
_MOST_JOBS: Final = 8
_IMPORT: Final = "peft_regress.workers.serve:import_modules"


class UnusableEnvironmentError(InputError):
    """An environment in which nothing can be done, for example because peft fails to import."""


class NodeError(PeftRegressError):
    """Another machine that cannot be used."""


class GivenUpError(PeftRegressError):
    """Work that was lost with the machines that did it, too often to try again."""


def default_jobs() -> int:
    """Return the default number of workers: one per core, since each trains on one core."""
    return min(usable_cores(), _MOST_JOBS)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where workers run."""

    python: Path
    """The interpreter on this machine."""
    planned: tuple[Planned, ...] = ()
    """What it has over the running environment, so that another machine can make its like."""
    libraries: tuple[str, ...] = ()
    """Modules that a worker imports first, and nothing works without."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables of the workers, besides those of this process."""


@dataclass(eq=False)
class Seat:
    """Has one worker at a time, in one environment; another thread may `stop` it."""

    folder: Path
    """The working directory of its workers: a library may write into it."""
    time_limit: float
    """The seconds that one answer may take."""
    name: str = ""
    """How messages name it, if it is on another machine."""
    machine: Machine | None = None
    """What the last worker says of its machine."""
    is_stopped: bool = False
    """Whether `stop` was called."""
    _environment: Environment | None = None
    _worker: WorkerProcess | None = None

    def is_fresh(self, environment: Environment) -> bool:
        """Return whether `worker` would start a worker."""
        worker = self._worker
        return worker is None or not worker.is_alive or self._environment != environment

    def worker(self, environment: Environment) -> WorkerProcess:
        """Return the worker, a new one if the last one ended or is of another environment.

        Raises `UnusableEnvironmentError` if none can be started there, or if the libraries cannot
        be imported, or others than are installed; `WorkerError` if the seat was stopped.
        """
        if self._worker is None or self.is_fresh(environment):
            self.close()
            return self._start(environment)
        return self._worker

    def stop(self) -> None:
        """End the worker, also while another thread waits for its answer; none starts again."""
        self.is_stopped = True
        worker = self._worker
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End the worker, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _start(self, environment: Environment) -> WorkerProcess:
        self._environment = environment
        try:
            # Not resolved: the link's target is the interpreter without the environment.
            worker = WorkerProcess(
                str(environment.python.absolute()),
                time_limit=self.time_limit,
                folder=self.folder,
                environment=dict(environment.variables),
                on_start=self._started,
            )
            imported = worker.ask(_IMPORT, Import(modules=list(environment.libraries)), Imported)
            _check_files(environment, imported)
        except BaseException as error:
            self.close()
            if not isinstance(error, InterpreterError | WorkerError):
                raise
            if self.is_stopped:
                raise WorkerError("interrupted") from None
            raise UnusableEnvironmentError(str(error)) from None
        self.machine = imported.machine
        return worker

    def _started(self, worker: WorkerProcess) -> None:
        self._worker = worker
        if self.is_stopped:
            worker.kill()


def _check_files(environment: Environment, imported: Imported) -> None:
    """Raise `UnusableEnvironmentError` if a worker imports other code than is installed."""
    own = environment.python.absolute().parent.parent
    for name, file in imported.files.items():
        # A folder of the user's PYTHONPATH comes before what is installed.
        for installed in own.glob(f"lib/python*/site-packages/{name}/__init__.py"):
            if installed.resolve() != Path(file).resolve():
                raise UnusableEnvironmentError(
                    f"{environment.python}: {name} is imported from {file}, not from where it is "
                    "installed; unset PYTHONPATH"
                )


@dataclass
class LocalPool:
    """Workers of this machine; as a context manager they are gone at the end."""

    slots: int
    """How much it does at once."""
    time_limit: float
    is_remote: bool = False
    """Whether it works on other machines."""
    status: str = ""
    """How much is running, to show beside the progress; may be empty."""
    _seats: dict[int, Seat] = field(default_factory=dict)
    """By the thread that has it."""
    _is_stopped: bool = False

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="peft-regress-", ignore_cleanup_errors=True
        )
        self._threads = ThreadPoolExecutor(self.slots, thread_name_prefix="worker")
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self.stop()
        self._threads.shutdown(cancel_futures=True)
        for seat in self._seats.values():
            seat.close()
        self._scratch.cleanup()

    def submit(
        self,
        environment: Environment,
        function: str,
        requests: Sequence[msgspec.Struct],
        answer: type[_Answer],  # noqa: ARG002  (nothing is decoded here)
    ) -> list[Future[_Answer]]:
        """Call a function for each request, with a seat and the environment before it.

        function: "module:function", called beside the worker, which it may ask. Here the requests
        are worked off one after another on one seat, so that they share what the worker keeps;
        several submissions at once.
        """
        futures: list[Future[_Answer]] = [Future() for _ in requests]
        called = Functions().named(function)

        def work() -> None:
            seat = self._seat()
            for future, request in zip(futures, requests, strict=True):
                if self._is_stopped or not future.set_running_or_notify_cancel():
                    continue
                try:
                    found = called(seat, environment, request)
                except BaseException as error:  # noqa: BLE001  (whoever waits for it raises it)
                    future.set_exception(error)
                else:
                    future.set_result(found)

        self._threads.submit(work)
        return futures

    def stop(self) -> None:
        """End every worker, also while other threads wait for their answers."""
        self._is_stopped = True
        for seat in list(self._seats.values()):
            seat.stop()

    def _seat(self) -> Seat:
        thread = threading.get_ident()
        if thread not in self._seats:
            self._seats[thread] = Seat(Path(self._scratch.name), time_limit=self.time_limit)
            if self._is_stopped:
                self._seats[thread].stop()
        return self._seats[thread]


Pool: TypeAlias = "LocalPool | DaskPool"
"""Does work in several places at once."""
