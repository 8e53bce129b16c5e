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

from peft_regress.baselines import run_adapters
from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.interrupts import held_signals
from peft_regress.invariants import KNOWN
from peft_regress.overlay.pip import Planned, direct_sources
from peft_regress.project.budgets import Budget
from peft_regress.project.project import Project
from peft_regress.project.settings import Pip
from peft_regress.runner.keeper import Keeper, version_in
from peft_regress.runner.measurer import MEASURER, CaseAnswer, CaseRequest
from peft_regress.runs.environment import changed_packages, commit_here
from peft_regress.runs.journal import Header, KeptRecord, Line, check_kept, header_of, run_of
from peft_regress.runs.run_file import write_run_file
from peft_regress.runs.schema import Failure, Record, Run, Selection, error_record
from peft_regress.text import redacted
from peft_regress.workers import pool as pools
from peft_regress.workers import worker as workers

CASE_SECONDS: Final = 600.0
"""How long one case may take: thirty times the slowest one on two idle cores."""

LIBRARIES: Final = ("torch", "torchvision", "peft", "galore_torch")
# Folders in a message: they differ between machines and between environments.
_FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


@dataclass(frozen=True, kw_only=True)
class MeasuringSetup:
    """Where and how workers measure, in whichever environment."""

    project: Project
    baselines: Path
    """The folder with `sources/`."""
    jobs: int
    """How many cases are measured at once."""
    time_limit: float = CASE_SECONDS
    """Seconds that one case may take."""
    keeper: Keeper = field(default_factory=Keeper)
    """Keeps records, and takes those of an earlier run."""
    pip: Pip = field(default_factory=Pip)
    pool: pools.Pool | None = None
    """What measures instead of workers of this machine."""
    commit: str | None = None
    """What kept records were measured of; None for the commit of the working folder."""


def ask_case(seat: pools.Seat, environment: pools.Environment, request: CaseRequest) -> CaseAnswer:
    """Look up a case and measure it; a worker that is lost meanwhile makes a record in error.

    Raises `UnusableEnvironmentError` if nothing can be done there.
    """
    while True:
        is_fresh = seat.is_fresh(environment)
        worker = seat.worker(environment)
        try:
            definition = worker.ask(f"{MEASURER}.prepare", request, str)
            assert seat.machine is not None  # noqa: S101  (it has a worker)
            answer = CaseAnswer(
                where=seat.name or worker.interpreter,
                definition=definition,
                header=Header(
                    environment=worker.packages,
                    direct=direct_sources(environment.planned),
                    machine=seat.machine,
                    metrics_known=sorted(KNOWN),
                    commit=request.commit,
                ),
            )
            return _measured(seat, worker, request, answer) if request.measures else answer
        except workers.WorkerError as error:
            worker.kill()
            # An earlier case may have left the worker unusable.
            if is_fresh or seat.is_stopped:
                raise pools.UnusableEnvironmentError(f"{request.case}: {error}") from None


def _measured(
    seat: pools.Seat, worker: workers.WorkerProcess, request: CaseRequest, answer: CaseAnswer
) -> CaseAnswer:
    case, files = Case.parse(request.case), dict[str, bytes]()
    with tempfile.TemporaryDirectory(dir=seat.folder, ignore_cleanup_errors=True) as scratch:
        asked = msgspec.structs.replace(request, scratch=scratch)
        try:
            kept = worker.ask(f"{MEASURER}.measure", asked, KeptRecord)
            check_kept(case.id, kept, answer.definition)
            files = run_adapters.adapter_files(Path(scratch), case)
        except workers.RequestRefusedError:
            raise
        except (workers.WorkerError, InputError) as error:
            worker.kill()
            if seat.is_stopped:
                raise workers.WorkerError("interrupted") from None
            if isinstance(error, workers.WorkerTimeoutError):
                limit = f"no result within {worker.time_limit:g} s"
                failure = Failure(type="TimeoutError", message=limit)
            else:
                problem = str(error).removeprefix(f"{worker.interpreter}: ")
                failure = Failure(type="WorkerLost", message=redacted(_FOLDERS.sub("", problem)))
            record = error_record(case, answer.definition, failure)
            kept = KeptRecord(record=record, trains=request.trains)
    return msgspec.structs.replace(answer, kept=kept, adapter=files)


def measure_cases(  # noqa: PLR0913  (each is one setting)
    cases: Sequence[Case],
    *,
    python: Path,
    setup: MeasuringSetup,
    planned: Sequence[Planned] = (),
    narrowed_by: Sequence[str] = (),
    matrix: str = "default",
    trains: bool = True,
    save: Path | None = None,
    known: Mapping[str, list[KnownCurve]] | None = None,
    loaded: dict[str, Collection[str]] | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
) -> Run:
    """Measure cases in an interpreter that has this peft_regress, and return the run.

    `planned` is what the interpreter's environment has over the running one. `narrowed_by` states
    how the cases were selected from the matrix. Without `trains` a record has only the costs of a
    step. `save` is the run file to come: adapters are kept beside it, and it gets the run so far if
    an error or Ctrl-C ends it. `known` is what need not be trained again, by case. `loaded` gets
    the packages of which a case that ran has loaded a module, by case. `on_record` gets each record
    when it is made. A case that was lost with the nodes that measured it has no record. Raises
    `UnusableEnvironmentError` if nothing can be measured there, `InputError` if there are no cases,
    `NodeError` for a node that differs.
    """
    if not cases:
        raise InputError("there is no case to measure")
    own = pools.LocalPool(setup.jobs, setup.time_limit)
    work = _Work(
        environment=pools.Environment(python=python, planned=tuple(planned), libraries=LIBRARIES),
        setup=setup,
        pool=setup.pool or own,
        budget_of=read_budgets(setup.project.settings.budgets),
        trains=trains,
        adapters=None if save is None else run_adapters.adapters_of_run(save),
        known=known or {},
        loaded={} if loaded is None else loaded,
        on_record=on_record,
    )
    try:
        with contextlib.nullcontext() if setup.pool else own:
            work.measure(cases)
    except BaseException:
        if work.lines and save is not None:
            save_run(save, work.run(matrix, ["interrupted"]))
        raise
    if not work.lines:
        raise pools.UnusableEnvironmentError(f"{python}: no case was measured")
    return work.run(matrix, narrowed_by)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Cases to measure in one environment, and what came of them so far."""

    environment: pools.Environment
    setup: MeasuringSetup
    pool: pools.Pool
    budget_of: Callable[[Case], Budget | None]
    """That of cases that state none themselves."""
    trains: bool
    adapters: Path | None
    """The folder to keep adapters in."""
    known: Mapping[str, list[KnownCurve]]
    loaded: dict[str, Collection[str]]
    on_record: Callable[[Record], None]
    lines: dict[str, Line] = field(default_factory=dict)
    """What was measured so far, by case."""

    def measure(self, cases: Sequence[Case]) -> None:
        """Take what an earlier run measured, and let the pool measure the rest."""
        self._take([case for case in cases if self.setup.keeper.has(case.id)])
        case_of: dict[Future[CaseAnswer], Case] = {}
        try:
            left = sorted((case for case in cases if case.id not in self.lines), key=_pairing)
            for _, group in groupby(left, key=_pairing):
                case_of |= self._asked([*group])
            for future in as_completed(case_of):
                # Of what is given up the pool has said so.
                with held_signals(), contextlib.suppress(pools.GivenUpError):
                    self._keep(case_of[future], future.result())
        finally:
            for future in case_of:
                future.cancel()

    def run(self, matrix: str, narrowed_by: Sequence[str]) -> Run:
        left_out = {case.id for case in matrix_cases(matrix)} - self.lines.keys()
        stated, others = list(narrowed_by) if left_out else [], sorted(left_out)
        selection = Selection(complete=not others, narrowed_by=stated, not_selected=others)
        lines = list(self.lines.values())
        return run_of(lines, header_of(lines), selection, self.budget_of)

    def _asked(
        self, cases: Sequence[Case], *, measures: bool = True
    ) -> dict[Future[CaseAnswer], Case]:
        """Let one seat look up cases and, if it `measures`, measure them."""
        commit = self.setup.commit
        requests = [
            CaseRequest(
                case=case.id,
                baselines=str(self.setup.baselines.absolute()),
                folder=self.setup.project.folder,
                commit=commit_here() if commit is None else commit,
                measures=measures,
                trains=self.trains,
                keeps_adapter=self.adapters is not None,
                known=self.known.get(case.id, []) if self.trains else [],
            )
            for case in cases
        ]
        function = f"{__name__}:{ask_case.__name__}"
        futures = self.pool.submit(self.environment, function, requests, CaseAnswer)
        return dict(zip(futures, cases, strict=True))

    def _take(self, cases: Sequence[Case]) -> None:
        for future, case in self._asked(cases, measures=False).items():
            answer = future.result()
            kept = self.setup.keeper.take(
                case.id,
                answer.header,
                answer.definition,
                self.setup.project,
                trains=self.trains,
                known=self.known.get(case.id, ()),
                version_of=version_in(self.environment.python),
                any_machine=self.pool.is_remote,
            )
            if kept is not None:
                self._add(answer.header, kept)

    def _keep(self, case: Case, answer: CaseAnswer) -> None:
        """Put a record on disk and among the results, before anybody is told."""
        kept = self._checked(case, answer)
        if self.adapters is not None:
            run_adapters.place_adapter(self.adapters, kept.record.case, answer.adapter)
        self._add(answer.header, kept)

    def _add(self, header: Header, kept: KeptRecord) -> None:
        record = kept.record
        self.setup.keeper.keep(header, kept)
        if record.status == "ok" and kept.loaded:
            self.loaded[record.case.id] = kept.loaded
        self.lines[record.case.id] = Line(header=header, kept=kept)
        self.on_record(record)

    def _checked(self, case: Case, answer: CaseAnswer) -> KeptRecord:
        """Return a record; raise an error if it is not of the case and environment asked for."""
        kept, packages, where = answer.kept, answer.header.environment, answer.where
        if kept is None:
            raise pools.NodeError(f"{where}: {case.id}: no record")
        try:
            check_kept(case.id, kept, answer.definition)
        except InputError as error:
            raise pools.NodeError(f"{where}: {error}") from None
        earlier = next(iter(self.lines.values()), None)
        known = packages if earlier is None else earlier.header.environment
        for name, (one, other) in changed_packages(known, packages).items():
            there = ", after `peft-regress upgrade --clean` there" if self.pool.is_remote else ""
            raise pools.UnusableEnvironmentError(
                f"{where}: its packages changed during the run ({name} "
                f"{one or 'not installed'}, then {other or 'not installed'}); run it again{there}"
            )
        find = version_in(self.environment.python)
        for name, version in kept.imported.items() if self.pool.is_remote else ():
            if find(name) != version:
                raise pools.NodeError(
                    f"{where}: {case.id} uses {name} {version} there, and "
                    f"{find(name) or 'none'} here; install the same on both"
                )
        return kept


def _pairing(case: Case) -> tuple[str, str, int]:
    """Return what cases that share a cost profile have in common."""
    return case.architecture, case.method, case.rank or 0


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
    run_adapters.prune_adapters(run_adapters.adapters_of_run(path), run)
