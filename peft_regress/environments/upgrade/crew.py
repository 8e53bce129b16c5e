"""Measure cases in another interpreter, by several workers, whatever happens in a case.

A case in which the libraries crash, hang or babble becomes a record in error, and the rest goes on.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.environments.overlay.pip import PIP_SECONDS
from peft_regress.environments.upgrade.measuring_worker import CaseLostError, MeasuringWorker
from peft_regress.environments.worker.environment_variables import variables
from peft_regress.environments.worker.process import InterpreterError, WorkerError
from peft_regress.errors import InputError
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.schema import SCHEMA_VERSION, Ledger, Record, Run, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peft_regress.cases import Case
    from peft_regress.environments.upgrade.messages import Imported
    from peft_regress.runs.schema import Machine

__all__ = [
    "CASE_SECONDS",
    "MeasuringSetup",
    "UnusableEnvironmentError",
    "default_jobs",
    "measure_cases",
]

CASE_SECONDS: Final = 600.0
"""How long one case may take: thirty times the slowest one on two idle cores."""

_MODULES: Final = ("torch", "torchvision", "peft", "galore_torch")
_MOST_JOBS: Final = 8


class UnusableEnvironmentError(InputError):
    """An environment in which nothing can be measured, for instance since peft does not import."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


def default_jobs() -> int:
    """Return how many workers there are if nobody says: one a core, of which each trains on one."""
    return min(usable_cores(), _MOST_JOBS)


@dataclass(frozen=True, kw_only=True)
class MeasuringSetup:
    """How cases are measured, whichever environment they are measured in.

    baselines: the folder with `sources/`. jobs: how many cases at once. time_limit: seconds that a
    case may take; pip_seconds: seconds that one call of pip may take.
    """

    baselines: Path
    jobs: int
    time_limit: float = CASE_SECONDS
    pip_seconds: float = PIP_SECONDS


@dataclass
class _Crew:
    """What the threads of one run share: each has a worker at a time, and takes the next cases."""

    python: Path
    place: MeasuringSetup
    trains: bool
    keep_adapters: Path | None
    folder: Path
    waiting: queue.SimpleQueue[list[Case]]
    tell: Callable[[Record], None]
    records: dict[str, Record] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    is_stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    workers: set[MeasuringWorker] = field(default_factory=set)

    def work(self) -> None:
        """Measure what is waiting until nothing is; run by each thread."""
        worker: MeasuringWorker | None = None
        try:
            while not self.is_stopped.is_set():
                try:
                    cases = self.waiting.get_nowait()
                except queue.Empty:
                    return
                for case in cases:
                    record = None
                    while record is None:
                        is_fresh = worker is None
                        worker = worker or self._new_worker()
                        record = self._measured(worker, case, is_fresh=is_fresh)
                        if not worker.is_alive:
                            self._dismiss(worker)
                            worker = None
                    with self.lock:
                        self.records[case.id] = record
                        self.tell(record)
        finally:
            if worker is not None:
                self._dismiss(worker)

    def stop(self) -> None:
        """End every worker; the threads then end by themselves."""
        self.is_stopped.set()
        with self.lock:
            for worker in self.workers:
                worker.kill()

    def _measured(self, worker: MeasuringWorker, case: Case, *, is_fresh: bool) -> Record | None:
        """Return the record of a case; None where an earlier one has left the worker unfit."""
        try:
            return worker.measure(
                case,
                baselines=self.place.baselines,
                trains=self.trains,
                keep_adapters=self.keep_adapters,
            )
        except CaseLostError as error:
            worker.kill()
            if self.is_stopped.is_set():
                raise
            return Record(
                case=case,
                definition=error.definition,
                status="error",
                error=error.failure,
                metrics={},
                invariants={},
                ledger=Ledger(),
            )
        except WorkerError as error:
            if not is_fresh and not self.is_stopped.is_set():
                worker.kill()
                return None
            msg = f"{case.id}: {error}"
            raise UnusableEnvironmentError(msg) from None

    def _new_worker(self) -> MeasuringWorker:
        try:
            worker = MeasuringWorker(
                str(self.python),
                time_limit=self.place.time_limit,
                folder=self.folder,
                environment=variables(),
                started=self._enlist,
            )
        except InterpreterError as error:
            raise UnusableEnvironmentError(str(error)) from None
        try:
            imported = worker.import_modules(_MODULES)
            self._check(worker, imported)
        except WorkerError as error:
            self._dismiss(worker)
            raise UnusableEnvironmentError(str(error)) from None
        except BaseException:
            self._dismiss(worker)
            raise
        return worker

    def _enlist(self, worker: MeasuringWorker) -> None:
        with self.lock:
            self.workers.add(worker)
        if self.is_stopped.is_set():
            worker.kill()

    def _check(self, worker: MeasuringWorker, imported: Imported) -> None:
        """Raise `UnusableEnvironmentError` where what is measured is not what it is taken for."""
        own = self.python.parent.parent
        for name, file in imported.files.items():
            # A folder of the user's PYTHONPATH comes before what is installed.
            for installed in own.glob(f"lib/python*/site-packages/{name}/__init__.py"):
                if installed.resolve() != Path(file).resolve():
                    msg = (
                        f"{worker.interpreter}: {name} is imported from {file}, not from where it "
                        "is installed; unset PYTHONPATH"
                    )
                    raise UnusableEnvironmentError(msg)
        with self.lock:
            if self.environment not in ({}, worker.packages):
                msg = f"{worker.interpreter}: its packages changed meanwhile; run it again"
                raise UnusableEnvironmentError(msg)
            self.environment, self.machine = worker.packages, imported.machine

    def _dismiss(self, worker: MeasuringWorker) -> None:
        with self.lock:
            self.workers.discard(worker)
        worker.close()


def measure_cases(  # noqa: PLR0913  (each is one setting)
    cases: Sequence[Case],
    *,
    python: Path,
    place: MeasuringSetup,
    narrowed_by: Sequence[str] = (),
    matrix: str = "default",
    trains: bool = True,
    keep_adapters: Path | None = None,
    tell: Callable[[Record], None] = lambda _: None,
    rescue: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Measure cases in an interpreter that has this peft_regress, and return the run.

    `narrowed_by` says how the cases were chosen of the matrix. Without `trains` a record has the
    costs of a step alone. Each record is told as it comes; what there is at an interrupt is handed
    to `rescue`. Raises `UnusableEnvironmentError` where nothing can be measured there at all.
    """
    if not cases:
        msg = "there is no case to measure"
        raise InputError(msg)
    with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as folder:
        crew = _Crew(
            # Not resolved: where it points to is the interpreter without the environment.
            python=python.absolute(),
            place=place,
            trains=trains,
            keep_adapters=keep_adapters,
            # A candidate that writes into its working directory writes into one of its own.
            folder=Path(folder),
            waiting=queue.SimpleQueue(),
            tell=tell,
        )
        for group in _groups(cases):
            crew.waiting.put(group)
        try:
            _let_work(crew)
        except BaseException:
            if crew.records and crew.machine is not None:
                rescue(_run(crew, crew.machine, matrix=matrix, narrowed_by=["interrupted"]))
            raise
    if crew.machine is None:
        msg = f"{python}: no worker described its machine"
        raise UnusableEnvironmentError(msg)
    return _run(crew, crew.machine, matrix=matrix, narrowed_by=narrowed_by)


def _run(crew: _Crew, machine: Machine, *, matrix: str, narrowed_by: Sequence[str]) -> Run:
    left_out = {case.id for case in matrix_cases(matrix)} - crew.records.keys()
    return Run(
        schema_version=SCHEMA_VERSION,
        environment=crew.environment,
        machine=machine,
        selection=Selection(
            complete=not left_out,
            narrowed_by=list(narrowed_by) if left_out else [],
            not_selected=sorted(left_out),
        ),
        cases=dict(sorted(crew.records.items())),
    )


def _let_work(crew: _Crew) -> None:
    """Let the threads work, and end every process where one of them fails or Ctrl-C is typed."""
    with ThreadPoolExecutor(max_workers=crew.place.jobs, thread_name_prefix="crew") as pool:
        try:
            working = [pool.submit(crew.work) for _ in range(crew.place.jobs)]
            done, _ = wait(working, return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
        except BaseException:
            crew.stop()
            raise


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Return the cases in groups that share a cost profile, the architectures in turns."""

    def key(case: Case) -> tuple[str, str, int]:
        return case.architecture, case.method, case.rank or 0

    return [list(group) for _, group in groupby(sorted(cases, key=key), key=key)]
