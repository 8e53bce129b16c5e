"""Measure orders on the nodes of a Dask cluster, and take what comes back as it comes."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from peft_regress.baselines.run_adapters import place_adapter
from peft_regress.cases import Case
from peft_regress.errors import InputError
from peft_regress.runs.environment import changed_packages
from peft_regress.runs.journal import Header, KeptRecord, check_kept
from peft_regress.runs.schema import Record
from peft_regress.settings import Settings
from peft_regress.text import count_of
from peft_regress.upgrades.cluster.cluster import (
    Cluster,
    digest_of,
    message_of,
    no_answer,
    opened_cluster,
    raise_problem,
    read_answer,
    require_dask,
)
from peft_regress.upgrades.cluster.messages import MeasuredCase, Task, TaskResult
from peft_regress.upgrades.cluster.slots import heaviest_first
from peft_regress.upgrades.keeping import version_in
from peft_regress.upgrades.measuring import MeasuringSetup, UnusableEnvironmentError
from peft_regress.upgrades.orders import Order, Results, groups_of
from peft_regress.upgrades.taking import taken_records

if TYPE_CHECKING:
    from distributed import Future


_POLL_SECONDS: Final = 0.5
_MOST_LOSSES: Final = 3
"""How often a task that was lost with its worker is started again."""


@contextlib.contextmanager
def measuring_cluster(
    address: str,
    *,
    baselines: Path,
    say: Callable[[str], None],
    uses_gpus: bool,
    own: Settings,
) -> Iterator[ClusterEngine]:
    """Connect to a scheduler whose workers measure.

    Raises `InputError` without Dask, and what `opened_cluster` raises.
    """
    require_dask()
    from peft_regress.upgrades.cluster.measuring_node import MeasuringNode

    with opened_cluster(
        address, baselines=baselines, say=say, node=MeasuringNode, uses_gpus=uses_gpus, own=own
    ) as cluster:
        yield ClusterEngine(cluster)


class ClusterEngine:
    """An `Engine`: the workers of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def status(self) -> str:
        """How many tasks run, and how many were lost."""
        return self._cluster.status

    def stop(self) -> None:
        """End every order that is being measured, in whichever thread."""
        self._cluster.stop()

    def measure(
        self,
        order: Order,
        *,
        setup: MeasuringSetup,
        results: Results,
        on_record: Callable[[Record], None],
    ) -> None:
        """Measure an order, group by group; each is kept as soon as it comes back.

        Raises `UnusableEnvironmentError` if nothing can be measured in its environment, `NodeError`
        for a node that cannot be used, `ClusterLostError` for a scheduler that has gone.
        """
        taken = taken_records(order, setup)
        for name, kept in taken.items():
            results.records[name] = kept.record
            if kept.record.machine is not UNSET:
                results.machines[name] = kept.record.machine
            results.imported[name] = kept.imported
            on_record(kept.record)
        left = [case for case in order.cases if case.id not in taken]
        with self._cluster.connection.in_use():
            _Work(self._cluster, order, setup, results, on_record).measure(left)


@dataclass(frozen=True, eq=False)
class _Running:
    """A task at a worker."""

    task: Task
    worker: str
    future: Future[str]

    def cancel(self) -> None:
        """Let Dask forget it; a worker that has begun goes on."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            self.future.cancel()


def _put(ended: queue.SimpleQueue[_Running | None], running: _Running, _: Future[str]) -> None:
    ended.put(running)


def _result_of(message: str, running: _Running) -> TaskResult:
    """Return what a node answers, read as strictly as a run file. Raises `NodeError`."""
    result = read_answer(message, TaskResult, running.worker)
    try:
        _check_result(result, running.task)
    except InputError as error:
        raise no_answer(running.worker, error) from None
    return result


def _check_result(result: TaskResult, task: Task) -> None:
    """Raise `InputError` unless a result has records of all cases of its task, or a problem."""
    for measured in result.cases:
        check_kept(measured.record)
    if result.problem is not None:
        return
    names = sorted(measured.record.case.id for measured in result.cases)
    if result.machine is None or names != sorted(task.cases):
        raise InputError(f"has {', '.join(names) or 'no case'}, not {', '.join(task.cases)}")


class _Work:
    """One order while it is measured."""

    def __init__(
        self,
        cluster: Cluster,
        order: Order,
        setup: MeasuringSetup,
        results: Results,
        on_record: Callable[[Record], None],
    ) -> None:
        self._cluster = cluster
        self._order = order
        self._setup = setup
        self._results = results
        self._on_record = on_record
        self._environment = digest_of(order.planned)
        self._ended: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        """None wakes, since a worker is free again."""
        self._waiting: list[Task] = []
        """The next task comes last."""
        self._running: list[_Running] = []
        self._losses: Counter[str] = Counter()
        """How often a task was lost with its worker, by key."""
        self._number = 0

    def measure(self, cases: list[Case]) -> None:
        """Measure cases, and take what comes back as it comes."""
        groups = heaviest_first([[case.id for case in group] for group in groups_of(cases)])
        self._waiting = [self._task_of(group) for group in reversed(groups)]
        slots = self._cluster.slots
        self._number = slots.enter(self._environment, lambda: self._ended.put(None))
        try:
            while self._waiting or self._running:
                self._cluster.check()
                self._start_some()
                slots.want(self._number, more=bool(self._waiting))
                with contextlib.suppress(queue.Empty):
                    ended = self._ended.get(timeout=_POLL_SECONDS)
                    if ended in self._running:
                        self._take(ended)
                for running in list(self._running):
                    if not slots.has(running.worker):
                        self._lose(running, "its node has gone")
        finally:
            slots.leave(self._number)
            for running in self._running:
                running.cancel()
                slots.give_back(self._number, running.worker)

    def _task_of(self, group: list[str]) -> Task:
        order = self._order
        return Task(
            key=self._cluster.new_key(self._environment, group[0]),
            planned=list(order.planned),
            cases=group,
            trains=order.trains,
            keeps_adapters=order.keep_adapters is not None,
            known={name: order.known[name] for name in group if name in order.known},
            time_limit=self._setup.time_limit,
            pip_seconds=self._setup.pip_seconds,
        )

    def _start_some(self) -> None:
        """Start tasks while workers are free for this order."""
        while self._waiting:
            worker = self._cluster.slots.take(self._number)
            if worker is None:
                return
            task = self._waiting.pop()
            losses = self._losses[task.key]
            self._cluster.attempts.started(task.key)
            task = msgspec.structs.replace(task, gpus=self._cluster.connection.gpus())
            future = self._cluster.submit(task, worker, f"{task.key}-{losses + 1}")
            running = _Running(task, worker, future)
            self._running.append(running)
            future.add_done_callback(functools.partial(_put, self._ended, running))

    def _take(self, running: _Running) -> None:
        """Take the result of a task that has ended, however it ended."""
        task, message = running.task, message_of(running.future)
        if message is None:
            self._cluster.check()
            self._lose(running, "its node was killed")
            return
        self._end(running)
        result = _result_of(message, running)
        self._raise_problem(result)
        self._check_environment(result)
        kept = []
        for measured in result.cases:
            problem = self._cluster.attempts.disagreement(task.key, result, measured.record)
            if problem is None:
                self._keep(measured, result)
                kept.append(measured.record)
            else:
                self._cluster.say(problem)
        # All of them are on disk before anything is shown, which may be interrupted.
        for record in kept:
            self._on_record(record)

    def _end(self, running: _Running, *, is_lost: bool = False) -> None:
        self._running.remove(running)
        self._cluster.attempts.ended(running.task.key, is_lost=is_lost)
        self._cluster.slots.give_back(self._number, running.worker)

    def _lose(self, running: _Running, why: str) -> None:
        """Start a lost task again; after some losses give it up: its cases get no record."""
        task = running.task
        running.cancel()
        self._end(running, is_lost=True)
        self._losses[task.key] += 1
        times = self._losses[task.key]
        if times <= _MOST_LOSSES:
            self._waiting.append(task)
            self._cluster.slots.want(self._number, more=True)
            return
        problem = (
            f"{', '.join(task.cases)}: given up after losing {count_of(times, 'node')}, "
            f"{running.worker} last ({why}); such a case may take all memory of a node"
        )
        self._cluster.say(problem)

    def _raise_problem(self, result: TaskResult) -> None:
        if result.problem is not None:
            raise_problem(result.problem, result.node)

    def _check_environment(self, result: TaskResult) -> None:
        known = self._results.environment
        for name, (one, other) in changed_packages(
            known or result.environment, result.environment
        ).items():
            raise UnusableEnvironmentError(
                f"node {result.node}: has {name} {other or 'not installed'} in this environment, "
                f"the nodes before it {one or 'not installed'}; remove its overlays with "
                "`peft-regress upgrade --clean` there, and measure again"
            )
        self._results.environment = result.environment

    def _keep(self, measured: MeasuredCase, result: TaskResult) -> None:
        """Put a record on disk and among the results."""
        record, results, machine = measured.record, self._results, result.machine
        assert machine is not None  # noqa: S101  (read so)
        from peft_regress.upgrades.cluster.connection import NodeError

        find = version_in(self._order.python)
        for name, version in measured.imported.items():
            if find(name) != version:
                raise NodeError(
                    f"node {result.node}: {record.case.id} uses {name} {version} there, and "
                    f"{find(name) or 'none'} here; install the same on both"
                )
        if self._order.keep_adapters is not None:
            place_adapter(self._order.keep_adapters, record.case, measured.adapter)
        results.records[record.case.id] = record
        results.machines[record.case.id] = machine
        results.imported[record.case.id] = measured.imported
        if self._setup.keeper is not None:
            header = Header.here(result.environment, machine, direct=results.direct)
            kept = KeptRecord(record=record, trains=self._order.trains, imported=measured.imported)
            self._setup.keeper.keep(header, kept)
