"""Search on the nodes of a Dask cluster: each slice of a search is a task.

A slice whose node is lost starts again on another one with the same seed, so that nothing that it
would find is lost.
"""

from __future__ import annotations

import sys
from concurrent.futures import CancelledError, Future
from importlib.util import find_spec
from types import TracebackType
from typing import Self

import msgspec

from peft_fuzz.search.messages import Begun, Seek, Sought
from peft_fuzz.search.workers import LifeWorker
from peft_regress.workers.pool import Environment, GivenUpError, NodeError, Pool, Seat
from peft_regress.workers.process import RequestRefusedError, WorkerError


class SearchTask(msgspec.Struct, frozen=True, kw_only=True):
    """A slice of a search, or the question what the environment has."""

    methods: tuple[str, ...]
    life_seconds: float
    seek: Seek | None = None


class SearchResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked for."""

    begun: Begun | None = None
    sought: Sought | None = None


def search_there(seat: Seat, environment: Environment, request: SearchTask) -> SearchResult:
    """Search with the worker of a node; called there.

    Raises `NodeError` without hypothesis, and what `LifeWorker` raises.
    """
    if find_spec("hypothesis") is None:
        raise NodeError(
            "has no hypothesis, which draws the examples; run "
            f"`{sys.executable} -m pip install peft-fuzz` there"
        )
    # The worker stays on its seat for the next slice.
    worker = LifeWorker(
        environment.python,
        request.methods,
        life_seconds=request.life_seconds,
        seat=seat,
        variables=environment.variables,
    )
    if request.seek is None:
        return SearchResult(begun=worker.begin())
    return SearchResult(sought=worker.seek(request.seek))


class RemoteLifeWorker:
    """Stands for a `LifeWorker` on whichever node is free; it begins and seeks like one."""

    def __init__(self, pool: Pool, environment: Environment, task: SearchTask) -> None:
        """Search as `task` says, which asks for no slice yet."""
        self._pool = pool
        self._environment = environment
        self._task = task
        self._future: Future[SearchResult] = Future()
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._future.cancel()

    def stop(self) -> None:
        """Let what waits for an answer get a `WorkerError`."""
        self._is_stopped = True
        self._future.cancel()

    def begin(self) -> Begun:
        """Return what the environment has. Raises as `seek` does."""
        begun = self._answer(self._task).begun
        assert begun is not None  # noqa: S101  (it was asked for)
        return begun

    def seek(self, request: Seek) -> Sought:
        """Search on a node.

        Raises `RequestRefusedError` if the search itself failed, `WorkerError` if it was stopped,
        `NodeError`, `ClusterLostError` or `UnusableEnvironmentError` if nothing can be searched.
        """
        sought = self._answer(msgspec.structs.replace(self._task, seek=request)).sought
        assert sought is not None  # noqa: S101  (it was asked for)
        return sought

    def _answer(self, task: SearchTask) -> SearchResult:
        function = f"{search_there.__module__}:{search_there.__name__}"
        (self._future,) = self._pool.submit(self._environment, function, [task], SearchResult)
        if self._is_stopped:
            self._future.cancel()
        try:
            return self._future.result()
        except CancelledError:
            raise WorkerError("stopped") from None
        except GivenUpError as error:
            raise RequestRefusedError(f"a slice was given up: {error}") from None
