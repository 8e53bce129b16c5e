"""What a Dask worker does: one process of this project measures, as on a single machine.

The process stays for the next task of the same environment, so that libraries are imported once.
It works in a folder and a process group of its own, and each case has a time limit. No torch.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from distributed import WorkerPlugin, get_worker

from peft_regress.baselines.adapters import adapter_files
from peft_regress.cases import Case
from peft_regress.catalogue.own_cases import use_settings
from peft_regress.environments.cluster.attempts import exact_metrics
from peft_regress.environments.cluster.facts import difference, facts_here
from peft_regress.environments.cluster.messages import (
    MeasuredCase,
    NodeSetup,
    Problem,
    Progress,
    Task,
    TaskResult,
)
from peft_regress.environments.cluster.own_code import unpack_own_code
from peft_regress.environments.overlay.overlay import opened_part
from peft_regress.environments.upgrade.measuring import (
    MeasuringSetup,
    MeasuringWorkers,
    WorkerPlace,
)
from peft_regress.environments.upgrade.orders import Order
from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.settings import Settings, read_settings
from peft_regress.text import clean

if TYPE_CHECKING:
    from distributed import Worker

    from peft_regress.environments.overlay.pip import Planned
    from peft_regress.runs.schema import Record

_IDLE_SECONDS: Final = 120.0
"""After so long without a task the process ends: whoever asked may be gone."""
_PATIENCE_SECONDS: Final = 5.0
_GPU_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"


class _LackError(PeftRegressError):
    """A node that lacks something."""


def _kind_of(error: Exception) -> Literal["environment", "source", "node"]:
    if isinstance(error, AbsentError):
        return "source"
    return "environment" if isinstance(error, InputError) else "node"


def check(name: str, dask_worker: Worker) -> str | None:
    """Return what this node lacks for a command; None if it lacks nothing."""
    return _node(name, dask_worker).lack()


def measure(name: str, task: str) -> str:
    """Return the `TaskResult` of a task, as JSON."""
    return _node(name, get_worker()).measure(task)


def _node(name: str, worker: Worker) -> Node:
    found = worker.plugins[name]
    assert isinstance(found, Node)  # noqa: S101  (the name is the command's own)
    return found


class Node(WorkerPlugin):
    """A Dask worker's part of one command; each worker that joins gets it from the scheduler."""

    def __init__(self, setup: str) -> None:
        """Take a `NodeSetup` as JSON."""
        self._json = setup

    def setup(self, worker: Worker) -> None:
        """Prepare to measure; called on the worker."""
        self._worker = worker
        self._setup = msgspec.json.decode(self._json, type=NodeSetup)
        self._folder = Path(tempfile.mkdtemp(prefix="peft-regress-", dir=worker.local_directory))
        self._lock = threading.Lock()
        self._environment: _Environment | None = None
        self._lack: str | None = None
        self._was_checked = False
        self._idle: threading.Timer | None = None
        self._is_closed = False

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask calls it so)
        """End the process that measures, also while a task waits for it."""
        self._is_closed = True
        environment = self._environment
        if environment is not None:
            environment.workers.running.stop()
        # Dask waits here, but not for a pip that a task has started.
        if self._lock.acquire(timeout=_PATIENCE_SECONDS):
            self._close()
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _name(self) -> str:
        address, name = str(self._worker.address), str(self._worker.name)
        return address if name == address else f"{name} ({address})"

    def lack(self) -> str | None:
        """Return what this node lacks, with its name; None if it lacks nothing."""
        if not self._was_checked:
            baselines = self._setup.baselines
            try:
                found = facts_here(Path(baselines))
                lack = difference(
                    self._setup.facts, found, python=sys.executable, baselines=baselines
                )
            except OSError as error:
                lack = f"{error.filename}: cannot be read ({error.strerror})"
            threads = self._worker.state.nthreads
            if lack is None and threads != 1:
                lack = (
                    f"has {threads} threads, and one process measures at a time; start it with "
                    "--nthreads 1"
                )
            self._lack, self._was_checked = lack, True
        return None if self._lack is None else f"node {self._name} {self._lack}"

    def measure(self, message: str) -> str:
        """Return the result of a task; a problem of the node is a result, too."""
        attempt = uuid.uuid4().hex
        task = msgspec.json.decode(message, type=Task)
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                result = self._result(task, attempt)
            except (PeftRegressError, OSError) as error:
                self._close()
                problem = Problem(text=clean(str(error), longest=2000), of=_kind_of(error))
                result = TaskResult(attempt=attempt, node=self._name, problem=problem)
            self._idle = threading.Timer(_IDLE_SECONDS, self._end_idle)
            self._idle.daemon = True
            self._idle.start()
        return msgspec.json.encode(result).decode()

    def _result(self, task: Task, attempt: str) -> TaskResult:
        lack = self.lack()
        if lack is not None:
            raise _LackError(lack)
        self._use_own_code()
        workers, place = self._in_environment(task)
        kept = self._folder / "adapters"
        shutil.rmtree(kept, ignore_errors=True)
        cases = [Case.parse(name) for name in task.cases]
        workers.order = Order(
            cases=tuple(cases),
            python=workers.order.python,
            planned=tuple(task.planned),
            trains=task.trains,
            keep_adapters=kept if task.keeps_adapters else None,
            known=task.known,
        )
        measured = []
        for case in cases:
            record = workers.measure_case(place, case)
            self._tell(task, attempt, record)
            measured.append(
                MeasuredCase(
                    record=record,
                    imported=workers.results.imported.pop(case.id, {}),
                    adapter=adapter_files(kept, case),
                )
            )
        return TaskResult(
            attempt=attempt,
            node=self._name,
            machine=workers.machine,
            environment=workers.results.environment,
            cases=measured,
        )

    def _tell(self, task: Task, attempt: str, record: Record) -> None:
        progress = Progress(
            key=task.key,
            attempt=attempt,
            node=self._name,
            case=record.case.id,
            exact=exact_metrics(record),
        )
        self._worker.log_event(self._setup.topic, msgspec.json.encode(progress).decode())

    def _use_own_code(self) -> None:
        """Let the process find the project's own cases; the settings are those of this process."""
        own, baselines = self._setup.own, Path(self._setup.baselines)
        folder = self._folder / "own"
        if own is None:
            use_settings(Settings(folder=self._folder, baselines=baselines))
            return
        if not folder.exists():
            unpack_own_code(own, folder)
        use_settings(read_settings(folder))

    def _in_environment(self, task: Task) -> tuple[MeasuringWorkers, WorkerPlace]:
        """Return what measures in the environment of a task, with a process that may be running."""
        variables = {_GPU_VARIABLE: self._gpu(task)}
        kept = self._environment
        wanted = (task.planned, variables, task.time_limit)
        if kept is None or kept.wanted != wanted or kept.workers.running.are_stopped:
            self._close()
            kept = _Environment(task, wanted, variables, self._folder, self._setup.baselines)
            self._environment = kept
            if self._is_closed:
                kept.workers.running.stop()
        return kept.workers, kept.place

    def _gpu(self, task: Task) -> str:
        """Return the GPU that the cases of a task see; empty for none."""
        if task.gpus is None:
            return ""
        # Whoever started this worker may have chosen, as dask-cuda does.
        return os.environ.get(_GPU_VARIABLE) or task.gpus.get(str(self._worker.address), "0")

    def _end_idle(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._environment is not None:
            self._environment.close()
            self._environment = None


class _Environment:
    """An environment on this node, and the process that measures in it."""

    def __init__(
        self,
        task: Task,
        wanted: tuple[list[Planned], dict[str, str], float],
        variables: dict[str, str],
        folder: Path,
        baselines: str,
    ) -> None:
        self.wanted = wanted
        self._stack = ExitStack()
        python = Path(sys.executable)
        if task.planned:
            # Nobody removes it while it is open; of several workers of a node one builds it.
            overlay = opened_part(task.planned, seconds=task.pip_seconds)
            python = self._stack.enter_context(overlay).python
        work = folder / "work"
        work.mkdir(exist_ok=True)
        self.workers = MeasuringWorkers(
            order=Order(cases=(), python=python),
            setup=MeasuringSetup(baselines=Path(baselines), jobs=1, time_limit=task.time_limit),
            folder=work,
            variables=variables,
        )
        self.place = WorkerPlace()

    def close(self) -> None:
        self.workers.empty(self.place)
        self._stack.close()
