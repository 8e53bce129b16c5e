"""Measure cases in another interpreter, by the workers of a pool.

A case in which the libraries crash, hang or garble the answers gets a record in error, alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.baselines.run_adapters import (
    adapter_files,
    adapters_of_run,
    place_adapter,
    prune_adapters,
)
from peft_regress.cases import Case, DataFile, Name, Version
from peft_regress.catalogue.budget_file import BudgetFile, stated_budgets
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.interrupts import held_signals
from peft_regress.invariants import KNOWN
from peft_regress.overlay.pip import Planned, direct_sources
from peft_regress.runner.keeper import Keeper, version_in
from peft_regress.runner.measurer import MEASURER, CaseRequest, prepare
from peft_regress.runs.environment import changed_packages, commit_here
from peft_regress.runs.journal import Header, KeptRecord, Line, check_kept, header_of, run_of
from peft_regress.runs.run_file import write_run_file
from peft_regress.runs.schema import (
    Failure,
    Machine,
    Record,
    Run,
    Selection,
    error_record,
    with_budget,
)
from peft_regress.text import redacted
from peft_regress.workers.pool import (
    Environment,
    GivenUpError,
    LocalPool,
    NodeError,
    Pool,
    Seat,
    UnusableEnvironmentError,
)
from peft_regress.workers.process import (
    RequestRefusedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)

CASE_SECONDS: Final = 600.0
"""How long one case may take: thirty times the slowest one on two idle cores."""

_LIBRARIES: Final = ("torch", "torchvision", "peft", "galore_torch")
# Folders in a message: they differ between machines and between environments.
_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


@dataclass(frozen=True, kw_only=True)
class MeasuringSetup:
    """Where and how workers measure, in whichever environment."""

    baselines: Path
    """The folder with `sources/`."""
    jobs: int
    """How many cases are measured at once."""
    time_limit: float = CASE_SECONDS
    """Seconds that one case may take."""
    keeper: Keeper | None = None
    """Takes and keeps records; None if each is measured and only the result is kept."""
    pool: Pool | None = None
    """What measures instead of workers of this machine."""
    commit: str | None = None
    """What kept records were measured of; None for the commit of the working folder."""


class DefinedCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What defines a case, as its environment knows it, and which environment that is."""

    definition: str
    where: str
    """The interpreter, or the machine as people find it."""
    machine: Machine
    environment: dict[Name, Version]
    """The packages of every case."""


class MeasuredCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record, and what lies beside it."""

    defined: DefinedCase
    kept: KeptRecord
    adapter: dict[DataFile, bytes]
    """The files of the kept adapter, by name."""


def define_case(seat: Seat, environment: Environment, request: CaseRequest) -> DefinedCase:
    """Look up a case. Raises `UnusableEnvironmentError` if that cannot be done there."""
    worker = seat.worker(environment)
    try:
        return _defined(seat, worker, request)
    except WorkerError as error:
        worker.kill()
        raise UnusableEnvironmentError(f"{request.case}: {error}") from None


def measure_case(seat: Seat, environment: Environment, request: CaseRequest) -> MeasuredCase:
    """Measure a case; a worker that is lost meanwhile makes a record in error.

    Raises `UnusableEnvironmentError` if nothing can be measured there.
    """
    while True:
        is_fresh = seat.is_fresh(environment)
        worker = seat.worker(environment)
        try:
            return _measured(seat, worker, request, _defined(seat, worker, request))
        except WorkerError as error:
            worker.kill()
            # An earlier case may have left the worker unusable.
            if is_fresh or seat.is_stopped:
                raise UnusableEnvironmentError(f"{request.case}: {error}") from None


def _defined(seat: Seat, worker: WorkerProcess, request: CaseRequest) -> DefinedCase:
    definition = prepare(worker, request)
    assert seat.machine is not None  # noqa: S101  (it has a worker)
    return DefinedCase(
        definition=definition,
        where=seat.name or worker.interpreter,
        machine=seat.machine,
        environment=worker.packages,
    )


def _measured(
    seat: Seat, worker: WorkerProcess, request: CaseRequest, defined: DefinedCase
) -> MeasuredCase:
    case, files = Case.parse(request.case), dict[str, bytes]()
    with tempfile.TemporaryDirectory(dir=seat.folder, ignore_cleanup_errors=True) as scratch:
        asked = msgspec.structs.replace(request, scratch=scratch)
        try:
            kept = worker.ask(f"{MEASURER}.measure", asked, KeptRecord)
            check_kept(case.id, kept, defined.definition)
            files = adapter_files(Path(scratch), case)
        except RequestRefusedError:
            raise
        except (WorkerError, InputError) as error:
            worker.kill()
            if seat.is_stopped:
                raise WorkerError("interrupted") from None
            if isinstance(error, WorkerTimeoutError):
                limit = f"no result within {worker.time_limit:g} s"
                failure = Failure(type="TimeoutError", message=limit)
            else:
                problem = str(error).removeprefix(f"{worker.interpreter}: ")
                failure = Failure(type="WorkerLost", message=redacted(_FOLDERS.sub("", problem)))
            record = error_record(case, defined.definition, failure)
            kept = KeptRecord(record=record, trains=request.trains)
    return MeasuredCase(defined=defined, kept=kept, adapter=files)


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
    loaded: dict[str, Collection[str]] | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
    on_interrupt: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Measure cases in an interpreter that has this peft_regress, and return the run.

    `planned` is what the interpreter's environment has over the running one. `narrowed_by` states
    how the cases were selected from the matrix. Without `trains` a record has only the costs of a
    step. `known` is what need not be trained again, by case. `loaded` gets the packages of which
    a case that ran has loaded a module, by case. `on_record` gets each record when it
    is made; `on_interrupt` gets the run so far if an error or Ctrl-C ends it. A case that was lost
    with the nodes that measured it has no record. Raises `UnusableEnvironmentError` if nothing can
    be measured there, `InputError` if there are no cases, `NodeError` for a node that differs.
    """
    if not cases:
        raise InputError("there is no case to measure")
    own = LocalPool(setup.jobs, setup.time_limit)
    work = _Work(
        environment=Environment(python=python, planned=tuple(planned), libraries=_LIBRARIES),
        setup=setup,
        pool=setup.pool or own,
        budgets=stated_budgets(),
        trains=trains,
        keep_adapters=keep_adapters,
        known=known or {},
        loaded={} if loaded is None else loaded,
        on_record=on_record,
    )
    try:
        with contextlib.nullcontext() if setup.pool else own:
            work.measure(cases)
    except BaseException:
        if work.lines:
            on_interrupt(work.run(matrix, ["interrupted"]))
        raise
    if not work.lines:
        raise UnusableEnvironmentError(f"{python}: no case was measured")
    return work.run(matrix, narrowed_by)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Cases to measure in one environment, and what came of them so far."""

    environment: Environment
    setup: MeasuringSetup
    pool: Pool
    budgets: BudgetFile
    """Those of cases that state none themselves."""
    trains: bool
    keep_adapters: Path | None
    known: Mapping[str, list[KnownCurve]]
    loaded: dict[str, Collection[str]]
    on_record: Callable[[Record], None]
    lines: dict[str, Line] = field(default_factory=dict)
    """What was measured so far, by case."""

    def measure(self, cases: Sequence[Case]) -> None:
        """Take what an earlier run measured, and let the pool measure the rest."""
        taken = self._taken(cases)
        function = f"{__name__}:{measure_case.__name__}"
        case_of: dict[Future[MeasuredCase], Case] = {}
        try:
            for group in groups_of([case for case in cases if case.id not in taken]):
                requests = [self._request(case) for case in group]
                futures = self.pool.submit(self.environment, function, requests, MeasuredCase)
                case_of |= zip(futures, group, strict=True)
            for future in as_completed(case_of):
                with held_signals(), contextlib.suppress(GivenUpError):  # the pool has said so
                    self._keep(case_of[future], future.result())
        finally:
            for future in case_of:
                future.cancel()

    def run(self, matrix: str, narrowed_by: Sequence[str]) -> Run:
        """Return what was measured."""
        left_out = {case.id for case in matrix_cases(matrix)} - self.lines.keys()
        selection = Selection(
            complete=not left_out,
            narrowed_by=list(narrowed_by) if left_out else [],
            not_selected=sorted(left_out),
        )
        lines = [*self.lines.values()]
        run = run_of(lines, header_of(lines), selection)
        budget_of = self.budgets.budget_of
        cases = {name: with_budget(record, budget_of) for name, record in run.cases.items()}
        return msgspec.structs.replace(run, cases=cases)

    def _request(self, case: Case) -> CaseRequest:
        return CaseRequest(
            case=case.id,
            baselines=str(self.setup.baselines.absolute()),
            trains=self.trains,
            keeps_adapter=self.keep_adapters is not None,
            known=list(self.known.get(case.id, ())) if self.trains else [],
        )

    def _taken(self, cases: Sequence[Case]) -> set[str]:
        """Take what an earlier run measured in an equal environment; return the cases."""
        keeper, taken = self.setup.keeper, set[str]()
        if keeper is None:
            return taken
        chosen = [case for case in cases if keeper.has(case.id)]
        requests = [self._request(case) for case in chosen]
        function = f"{__name__}:{define_case.__name__}"
        futures = self.pool.submit(self.environment, function, requests, DefinedCase)
        for case, future in zip(chosen, futures, strict=True):
            defined = future.result()
            header = self._header(defined)
            kept = keeper.take(
                case.id,
                header,
                defined.definition,
                trains=self.trains,
                known=self.known.get(case.id, ()),
                version_of=version_in(self.environment.python),
                any_machine=self.pool.is_remote,
            )
            if kept is not None:
                taken.add(case.id)
                self._add(header, kept)
        return taken

    def _header(self, defined: DefinedCase) -> Header:
        commit = self.setup.commit
        return Header(
            environment=defined.environment,
            direct=direct_sources(self.environment.planned),
            machine=defined.machine,
            metrics_known=sorted(KNOWN),
            commit=commit_here() if commit is None else commit,
        )

    def _keep(self, case: Case, measured: MeasuredCase) -> None:
        """Put a record on disk and among the results, before anybody is told."""
        kept = measured.kept
        self._check(case, measured)
        if self.keep_adapters is not None:
            place_adapter(self.keep_adapters, kept.record.case, measured.adapter)
        self._add(self._header(measured.defined), kept)

    def _add(self, header: Header, kept: KeptRecord) -> None:
        record = kept.record
        if self.setup.keeper is not None:
            self.setup.keeper.keep(header, kept)
        if record.status == "ok" and kept.loaded:
            self.loaded[record.case.id] = kept.loaded
        self.lines[record.case.id] = Line(header=header, kept=kept)
        self.on_record(record)

    def _check(self, case: Case, measured: MeasuredCase) -> None:
        """Raise an error if a record is not of the case and environment that was asked for."""
        source = measured.defined
        try:
            check_kept(case.id, measured.kept, source.definition)
        except InputError as error:
            raise NodeError(f"{source.where}: {error}") from None
        earlier = next(iter(self.lines.values()), None)
        known = source.environment if earlier is None else earlier.header.environment
        for name, (one, other) in changed_packages(known, source.environment).items():
            there = ", after `peft-regress upgrade --clean` there" if self.pool.is_remote else ""
            raise UnusableEnvironmentError(
                f"{source.where}: its packages changed during the run ({name} "
                f"{one or 'not installed'}, then {other or 'not installed'}); run it again{there}"
            )
        find = version_in(self.environment.python)
        for name, version in measured.kept.imported.items() if self.pool.is_remote else ():
            if find(name) != version:
                raise NodeError(
                    f"{source.where}: {case.id} uses {name} {version} there, and "
                    f"{find(name) or 'none'} here; install the same on both"
                )


def groups_of(cases: Sequence[Case]) -> list[list[Case]]:
    """Return the cases in groups that share a cost profile, ordered by architecture."""

    def key(case: Case) -> tuple[str, str, int]:
        return case.architecture, case.method, case.rank or 0

    return [list(group) for _, group in groupby(sorted(cases, key=key), key=key)]


def save_run(path: Path, run: Run) -> None:
    """Write a run file, and remove the adapters beside it that are not this run's.

    It has what pytest-benchmark writes besides the cases: the machine, and no times. Raises
    `InputError` if it cannot be written.
    """
    import pytest_benchmark
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
    from pytest_benchmark.utils import get_commit_info

    document = {
        "machine_info": pytest_benchmark_generate_machine_info(),  # type: ignore[no-untyped-call]  # untyped there
        "commit_info": get_commit_info(),  # type: ignore[no-untyped-call]  # untyped there
        "benchmarks": [],
        "datetime": dt.datetime.now(dt.UTC).isoformat(),
        "version": pytest_benchmark.__version__,
    }
    write_run_file(path, run, document)
    prune_adapters(adapters_of_run(path), run)
