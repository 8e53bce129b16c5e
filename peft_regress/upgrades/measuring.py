"""Measure cases in another interpreter, by several workers at once.

A case in which the libraries crash, hang or garble the answers gets a record in error; the other
cases go on.
"""

from __future__ import annotations

import queue
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import stated_budgets
from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.overlay.pip import PIP_SECONDS, Planned, direct_sources
from peft_regress.runs.environment import usable_cores
from peft_regress.runs.journal import Header, KeptRecord
from peft_regress.runs.schema import Failure, Machine, Record, Run, error_record
from peft_regress.upgrades.keeping import RecordKeeper
from peft_regress.upgrades.messages import (
    Import,
    Imported,
    Measure,
    Measured,
)
from peft_regress.upgrades.orders import Engine, Order, Results, groups_of
from peft_regress.workers.environment_variables import variables
from peft_regress.workers.process import (
    InterpreterError,
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)
from peft_regress.workers.threads import RunningWorkers, in_threads

CASE_SECONDS: Final = 600.0
"""How long one case may take: thirty times the slowest one on two idle cores."""

WORKER_MODULE: Final = "peft_regress.upgrades.worker"
_LIBRARIES: Final = ("torch", "torchvision", "peft", "galore_torch")
_MOST_JOBS: Final = 8
# Folders in a message: they differ between machines and between environments.
_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


class UnusableEnvironmentError(InputError):
    """An environment in which nothing can be measured, for example because peft fails to import."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


def default_jobs() -> int:
    """Return the default number of workers: one per core, since each trains on one core."""
    return min(usable_cores(), _MOST_JOBS)


@dataclass(frozen=True, kw_only=True)
class MeasuringSetup:
    """Where and how workers measure, in whichever environment."""

    baselines: Path
    """The folder with `sources/`."""
    jobs: int
    """How many cases are measured at once."""
    time_limit: float = CASE_SECONDS
    """Seconds that one case may take."""
    pip_seconds: float = PIP_SECONDS
    """Seconds that one call of pip may take."""
    keeper: RecordKeeper | None = None
    """Takes and keeps records; None if each is measured and only the result is kept."""
    engine: Engine | None = None
    """What measures instead of workers of this machine."""


@dataclass
class WorkerPlace:
    """Has one worker at a time, and none before the first case and after one is lost."""

    worker: WorkerProcess | None = None


@dataclass
class MeasuringWorkers:
    """What the threads of one run share: each has one worker at a time and takes the next cases."""

    order: Order
    setup: MeasuringSetup
    folder: Path
    """The working directory of the workers."""
    results: Results = field(default_factory=Results)
    waiting: queue.SimpleQueue[list[Case]] = field(default_factory=queue.SimpleQueue)
    on_record: Callable[[Record], None] = lambda _: None
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the workers, besides those of this process."""
    machine: Machine | None = None
    taken: set[str] = field(default_factory=set)
    """The cases whose records were measured by an earlier run."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: RunningWorkers = field(default_factory=RunningWorkers)

    def run(self) -> None:
        """Measure all that is waiting; end every process on an error or an interrupt."""
        in_threads([self._work] * self.setup.jobs, stop=self.running.stop, prefix="measuring")

    def _work(self) -> None:
        """Measure cases until none is waiting; each thread runs this."""
        place = WorkerPlace()
        try:
            while not self.running.are_stopped:
                try:
                    cases = self.waiting.get_nowait()
                except queue.Empty:
                    return
                for case in cases:
                    record = self.measure_case(place, case)
                    with self.lock:
                        self._keep(record)
                        self.on_record(record)
        finally:
            self.empty(place)

    def measure_case(self, place: WorkerPlace, case: Case) -> Record:
        """Measure a case by the worker of a place, or by a new one, which stays there.

        Raises `UnusableEnvironmentError` if nothing can be measured in the environment.
        """
        record = None
        while record is None:
            is_fresh = place.worker is None
            place.worker = place.worker or self._new_worker()
            record = self._measured(place.worker, case, is_fresh=is_fresh)
            if not place.worker.is_alive:
                self.empty(place)
        with self.lock:
            self.results.records[case.id] = record
            if self.machine is not None:
                self.results.machines[case.id] = self.machine
        return record

    def empty(self, place: WorkerPlace) -> None:
        """End the worker of a place, if there is one."""
        if place.worker is not None:
            self.running.close(place.worker)
            place.worker = None

    def _measured(self, worker: WorkerProcess, case: Case, *, is_fresh: bool) -> Record | None:
        """Return the record of a case; None if an earlier case has left the worker unusable."""
        try:
            definition = worker.prepare(case, baselines=self.setup.baselines)
            taken = self._taken(case, definition)
            if taken is not None:
                return taken
            try:
                return self._answered(worker, case)
            except RequestRefusedError:
                raise
            except WorkerTimeoutError:
                limit = f"no result within {worker.time_limit:g} s"
                failure = Failure(type="TimeoutError", message=limit)
            except WorkerError as error:
                problem = str(error).removeprefix(f"{worker.interpreter}: ")
                failure = Failure(type="WorkerLost", message=_FOLDERS.sub("", problem))
        except WorkerError as error:
            if not is_fresh and not self.running.are_stopped:
                worker.kill()
                return None
            raise UnusableEnvironmentError(f"{case.id}: {error}") from None
        worker.kill()
        if self.running.are_stopped:
            raise WorkerError(f"{case.id}: interrupted")
        return error_record(case, definition, failure)

    @property
    def _header(self) -> Header | None:
        if self.machine is None:
            return None
        return Header.here(self.results.environment, self.machine, direct=self.results.direct)

    def _taken(self, case: Case, definition: str) -> Record | None:
        """Return what was measured of a case before in an equal environment."""
        with self.lock:
            keeper, header = self.setup.keeper, self._header
            if keeper is None or header is None:
                return None
            kept = keeper.take(
                case.id,
                definition,
                header,
                trains=self.order.trains,
                python=self.order.python,
                known=self.order.known.get(case.id, ()),
            )
            if kept is None:
                return None
            self.results.imported[case.id] = kept.imported
            self.taken.add(case.id)
            return kept.record

    def _keep(self, record: Record) -> None:
        """Write a record to the journal as soon as it is made."""
        keeper, header = self.setup.keeper, self._header
        if keeper is not None and header is not None:
            kept = KeptRecord(
                record=record,
                trains=self.order.trains,
                imported=self.results.imported.get(record.case.id, {}),
                is_taken=record.case.id in self.taken,
            )
            keeper.keep(header, kept)

    def _answered(self, worker: WorkerProcess, case: Case) -> Record:
        order, kept = self.order, self.order.keep_adapters
        folder = None if kept is None else str(kept.absolute())
        known = list(order.known.get(case.id, ())) if order.trains else []
        request = Measure(trains=order.trains, keep_adapters=folder, known=known)
        answer = worker.call(request, Measured)
        record = answer.record
        with self.lock:
            self.results.imported[case.id] = answer.packages
        if record.case != case:
            raise WorkerError(
                f"{worker.interpreter}: its worker answered with the record of {record.case.id}"
            )
        return record

    def _new_worker(self) -> WorkerProcess:
        try:
            worker = WorkerProcess(
                str(self.order.python),
                WORKER_MODULE,
                time_limit=self.setup.time_limit,
                folder=self.folder,
                environment={**variables(), **self.variables},
                on_start=self.running.add,
            )
        except InterpreterError as error:
            raise UnusableEnvironmentError(str(error)) from None
        try:
            self._check(worker, worker.call(Import(modules=list(_LIBRARIES)), Imported))
        except WorkerError as error:
            self.running.close(worker)
            raise UnusableEnvironmentError(str(error)) from None
        except BaseException:
            self.running.close(worker)
            raise
        return worker

    def _check(self, worker: WorkerProcess, imported: Imported) -> None:
        """Raise `UnusableEnvironmentError` if the worker imports other code than is installed."""
        own = self.order.python.parent.parent
        for name, file in imported.files.items():
            # A folder of the user's PYTHONPATH comes before what is installed.
            for installed in own.glob(f"lib/python*/site-packages/{name}/__init__.py"):
                if installed.resolve() != Path(file).resolve():
                    raise UnusableEnvironmentError(
                        f"{worker.interpreter}: {name} is imported from {file}, not from where it "
                        "is installed; unset PYTHONPATH"
                    )
        with self.lock:
            if self.results.environment not in ({}, worker.packages):
                raise UnusableEnvironmentError(
                    f"{worker.interpreter}: its packages changed during the run; run it again"
                )
            self.results.environment, self.machine = worker.packages, imported.machine


def measure_cases(  # noqa: PLR0913  (each is one setting)
    cases: Sequence[Case],
    *,
    python: Path,
    setup: MeasuringSetup,
    planned: Sequence[Planned] = (),
    narrowed_by: Sequence[str] = (),
    matrix: str = "default",
    trains: bool = True,
    keep_adapters: Path | None = None,
    known: Mapping[str, list[KnownCurve]] | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
    on_interrupt: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Measure cases in an interpreter that has this peft_regress, and return the run.

    `planned` is what the interpreter's environment has over the running one. `narrowed_by` states
    how the cases were selected from the matrix. Without `trains` a record has only the costs of a
    step. `known` is what need not be trained again, by case. `on_record` gets each record when it
    is made; `on_interrupt` gets the run so far if an error or Ctrl-C ends it. Raises
    `UnusableEnvironmentError` if nothing can be measured there, `InputError` if there are no cases.
    """
    if not cases:
        raise InputError("there is no case to measure")
    order = Order(
        cases=tuple(cases),
        # Not resolved: the link's target is the interpreter without the environment.
        python=python.absolute(),
        planned=tuple(planned),
        trains=trains,
        keep_adapters=keep_adapters,
        known=known or {},
    )
    results = Results(budgets=stated_budgets(), direct=direct_sources(planned))
    measure = _measure_here if setup.engine is None else setup.engine.measure
    try:
        measure(order, setup=setup, results=results, on_record=on_record)
    except BaseException:
        if results.records:
            on_interrupt(results.run(matrix=matrix, narrowed_by=["interrupted"]))
        raise
    if not results.machines:
        raise UnusableEnvironmentError(f"{python}: no case was measured")
    return results.run(matrix=matrix, narrowed_by=narrowed_by)


def _measure_here(
    order: Order,
    *,
    setup: MeasuringSetup,
    results: Results,
    on_record: Callable[[Record], None],
) -> None:
    """Measure by several workers of this machine."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-", ignore_cleanup_errors=True) as folder:
        workers = MeasuringWorkers(
            order=order,
            setup=setup,
            # A library that writes into its working directory writes into this one.
            folder=Path(folder),
            results=results,
            on_record=on_record,
        )
        for group in groups_of(order.cases):
            workers.waiting.put(group)
        workers.run()
