"""What a Dask worker does to measure: one process of this project, as on a single machine."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.baselines.run_adapters import adapter_files
from peft_regress.cases import Case
from peft_regress.catalogue.own_cases import use_settings
from peft_regress.errors import PeftRegressError
from peft_regress.runs.schema import Record
from peft_regress.settings import Settings, read_settings
from peft_regress.upgrades.cluster.attempts import exact_metrics
from peft_regress.upgrades.cluster.messages import (
    MeasuredCase,
    OwnCode,
    Progress,
    Task,
    TaskResult,
)
from peft_regress.upgrades.cluster.node import Node, opened_python, problem_of
from peft_regress.upgrades.cluster.own_code import (
    other_module,
    search_folders,
    unpack_own_code,
)
from peft_regress.upgrades.measuring import (
    MeasuringSetup,
    MeasuringWorkers,
    WorkerPlace,
)
from peft_regress.upgrades.orders import Order

_GPU_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"


class MeasuringNode(Node):
    """A Dask worker that measures cases."""

    def do(self, message: str) -> str:
        """Return the `TaskResult` of a `Task`."""
        attempt = uuid.uuid4().hex
        task = msgspec.json.decode(message, type=Task)
        try:
            with self.at_work():
                result = self._result(task, attempt)
        except (PeftRegressError, OSError) as error:
            result = TaskResult(attempt=attempt, node=self.name, problem=problem_of(error))
        return msgspec.json.encode(result).decode()

    def _result(self, task: Task, attempt: str) -> TaskResult:
        self._use_own_code()
        environment = self._in_environment(task)
        workers = environment.workers
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
            record = workers.measure_case(environment.place, case)
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
            node=self.name,
            machine=workers.machine,
            environment=workers.results.environment,
            cases=measured,
        )

    def _tell(self, task: Task, attempt: str, record: Record) -> None:
        progress = Progress(
            key=task.key,
            attempt=attempt,
            node=self.name,
            case=record.case.id,
            exact=exact_metrics(record),
        )
        self._worker.log_event(self._setup.topic, msgspec.json.encode(progress).decode())

    def _use_own_code(self) -> None:
        """Let the process find the project's own cases; the settings are those of this process."""
        own, baselines = self._setup.own, Path(self._setup.baselines)
        if own is None:
            use_settings(Settings(folder=self._folder, baselines=baselines))
        else:
            use_settings(read_settings(self._unpacked(own)))

    def _unpacked(self, own: OwnCode) -> Path:
        folder = self._folder / "own"
        if not folder.exists():
            unpack_own_code(own, folder)
        return folder

    def lacking(self) -> str | None:
        """Return what this node lacks; other code of the project's cases, too."""
        own, lack = self._setup.own, super().lacking()
        if lack is not None or own is None:
            return lack
        name = other_module(own, self._unpacked(own))
        return name and (
            f"has other code of {name} than the command; install the same there, and start the "
            "worker again"
        )

    def _in_environment(self, task: Task) -> _Environment:
        """Return what measures in the environment of a task, with a process that may be running."""
        variables = {_GPU_VARIABLE: self._gpu(task)}
        own = self._setup.own
        if own is not None:
            paths = [*search_folders(own, self._unpacked(own))[1:], os.environ.get("PYTHONPATH")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return self.held(
            (task.planned, variables, task.time_limit),
            lambda: _Environment(task, variables, self._folder, self._setup.baselines),
        )

    def _gpu(self, task: Task) -> str:
        """Return the GPU that the cases of a task see; empty for none."""
        if task.gpus is None:
            return ""
        # Whoever started this worker may have chosen, as dask-cuda does.
        return os.environ.get(_GPU_VARIABLE) or task.gpus.get(str(self._worker.address), "0")


class _Environment:
    """An environment on this node, and the process that measures in it."""

    def __init__(
        self,
        task: Task,
        variables: dict[str, str],
        folder: Path,
        baselines: str,
    ) -> None:
        self._stack = ExitStack()
        opened = opened_python(task.planned, seconds=task.pip_seconds)
        python = self._stack.enter_context(opened)
        work = folder / "work"
        work.mkdir(exist_ok=True)
        self.workers = MeasuringWorkers(
            order=Order(cases=(), python=python),
            setup=MeasuringSetup(baselines=Path(baselines), jobs=1, time_limit=task.time_limit),
            folder=work,
            variables=variables,
        )
        self.place = WorkerPlace()

    @property
    def is_stopped(self) -> bool:
        return self.workers.running.are_stopped

    def stop(self) -> None:
        self.workers.running.stop()

    def close(self) -> None:
        self.workers.empty(self.place)
        self._stack.close()
