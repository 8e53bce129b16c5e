"""Search on the nodes of a Dask cluster: each slice of a search is a task.

A slice whose node is lost starts again on another one with the same seed, so that nothing that it
would find is lost.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from peft_fuzz.search.search import Seek, Sought
from peft_fuzz.search.worker import Begun
from peft_fuzz.search.workers import LifeWorker
from peft_regress.errors import PeftRegressError
from peft_regress.overlay.pip import Planned
from peft_regress.text import count_of
from peft_regress.upgrades.cluster.cluster import (
    Cluster,
    digest_of,
    message_of,
    opened_cluster,
    raise_problem,
    read_answer,
)
from peft_regress.upgrades.cluster.messages import Problem
from peft_regress.upgrades.cluster.node import LackError, Node, opened_python, problem_of
from peft_regress.workers.process import RequestRefusedError, WorkerError

if TYPE_CHECKING:
    from distributed import Future


_NO_STORAGE: Final = Path("baselines")
"""Where a node would look for the source models that no search needs."""
_POLL_SECONDS: Final = 0.1
_MOST_LOSSES: Final = 3
"""How often a slice that was lost with its node is started again."""


class SearchTask(msgspec.Struct, frozen=True, kw_only=True):
    """A slice of a search in one environment, or the question what the environment has."""

    planned: list[Planned]
    """What the environment has over the node's own; empty for that itself."""
    methods: tuple[str, ...]
    life_seconds: float
    pip_seconds: float
    seek: Seek | None = None


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a task: what was asked for, or why there is nothing."""

    node: str
    begun: Begun | None = None
    sought: Sought | None = None
    refused: str = ""
    """Why the search itself failed."""
    problem: Problem | None = None
    """Why the node could not search at all."""


class SearchNode(Node):
    """A Dask worker that searches."""

    def do(self, message: str) -> str:
        """Return the `SearchResult` of a `SearchTask`."""
        task = msgspec.json.decode(message, type=SearchTask)
        try:
            with self.at_work():
                result = self._result(task)
        except (PeftRegressError, OSError) as error:
            result = SearchResult(node=self.name, problem=problem_of(error))
        return msgspec.json.encode(result).decode()

    def _result(self, task: SearchTask) -> SearchResult:
        if find_spec("hypothesis") is None:
            raise LackError(
                "has no hypothesis, which draws the examples; run "
                f"`{sys.executable} -m pip install peft-fuzz` there"
            )
        wanted = (task.planned, task.methods, task.life_seconds)
        worker = self.held(wanted, lambda: _Environment(task)).worker
        if task.seek is None:
            return SearchResult(node=self.name, begun=worker.begin())
        try:
            return SearchResult(node=self.name, sought=worker.seek(task.seek))
        except RequestRefusedError as error:
            return SearchResult(node=self.name, refused=str(error))


class _Environment:
    """An environment on this node, and the process that searches in it."""

    def __init__(self, task: SearchTask) -> None:
        self._stack = ExitStack()
        opened = opened_python(task.planned, seconds=task.pip_seconds)
        python = self._stack.enter_context(opened)
        self.worker = self._stack.enter_context(
            LifeWorker(python, task.methods, life_seconds=task.life_seconds)
        )

    @property
    def is_stopped(self) -> bool:
        return self.worker.is_stopped

    def stop(self) -> None:
        self.worker.stop()

    def close(self) -> None:
        self._stack.close()


class RemoteLifeWorker:
    """Stands for a `LifeWorker` on whichever node is free; it begins and seeks like one."""

    def __init__(self, cluster: Cluster, task: SearchTask) -> None:
        """Search as `task` says, which asks for no slice yet."""
        self._cluster = cluster
        self._task = task
        self._environment = digest_of(task.planned)
        self._is_stopped = threading.Event()
        self._may_start = threading.Event()

    def __enter__(self) -> Self:
        self._number = self._cluster.slots.enter(self._environment, self._may_start.set)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cluster.slots.leave(self._number)

    def stop(self) -> None:
        """Let what waits for an answer get a `WorkerError`."""
        self._is_stopped.set()
        self._may_start.set()

    def begin(self) -> Begun:
        """Return what the environment has. Raises as `seek` does."""
        begun = self._answer(self._task, "begin").begun
        assert begun is not None  # noqa: S101  (it was asked for)
        return begun

    def seek(self, request: Seek) -> Sought:
        """Search on a node.

        Raises `RequestRefusedError` if the search itself failed, `WorkerError` if it was stopped,
        `NodeError`, `ClusterLostError` or `UnusableEnvironmentError` if nothing can be searched.
        """
        task = msgspec.structs.replace(self._task, seek=request)
        result = self._answer(task, "+".join(request.methods))
        if result.sought is None:
            raise RequestRefusedError(f"node {result.node}: {result.refused}")
        return result.sought

    def _answer(self, task: SearchTask, what: str) -> SearchResult:
        """Return the result of a task, on whichever nodes it takes."""
        for _ in range(_MOST_LOSSES + 1):
            with self._cluster.connection.in_use():
                node = self._free_node()
                message = self._message(task, node, self._cluster.new_key(self._environment, what))
            if message is not None:
                result = read_answer(message, SearchResult, node)
                if result.problem is not None:
                    raise_problem(result.problem, result.node)
                return result
        raise RequestRefusedError(
            f"a slice of {what} was given up after losing {count_of(_MOST_LOSSES + 1, 'node')}"
        )

    def _free_node(self) -> str:
        slots = self._cluster.slots
        slots.want(self._number, more=True)
        while (node := slots.take(self._number)) is None:
            self._check()
            self._may_start.wait(_POLL_SECONDS)
            self._may_start.clear()
        slots.want(self._number, more=False)
        return node

    def _message(self, task: SearchTask, node: str, key: str) -> str | None:
        """Return what a node answers; None if it was lost."""
        cluster, is_lost = self._cluster, False
        cluster.attempts.started(key)
        future = cluster.submit(task, node, key)
        try:
            message = message_of(future) if self._has_ended(future, node) else None
            self._check()
            is_lost = message is None
            return message
        finally:
            future.cancel()
            cluster.attempts.ended(key, is_lost=is_lost)
            cluster.slots.give_back(self._number, node)

    def _has_ended(self, future: Future[str], node: str) -> bool:
        """Wait for a task; return False if its node has gone."""
        while not future.done():
            self._check()
            if not self._cluster.slots.has(node):
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _check(self) -> None:
        if self._is_stopped.is_set():
            raise WorkerError("stopped")
        self._cluster.check()


def search_cluster(address: str, *, say: Callable[[str], None]) -> AbstractContextManager[Cluster]:
    """Connect to a scheduler whose workers search. Raises as `opened_cluster` does."""
    return opened_cluster(address, baselines=_NO_STORAGE, say=say, node=SearchNode)
