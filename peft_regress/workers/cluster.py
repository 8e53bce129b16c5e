"""A pool of the workers of a Dask scheduler: one task for each request, scheduled by Dask.

Dask carries strings to the nodes and back. A task whose node dies starts again on another one, as
often as Dask's `distributed.scheduler.allowed-failures` says; what fails by itself is a result.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import re
import threading
import time
import uuid
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from distributed import Client, KilledWorker, Security
from distributed.core import rpc
from distributed.versions import VersionMismatchWarning

from peft_regress.errors import AbsentError, InputError, SourceError
from peft_regress.settings import Settings
from peft_regress.text import clean, count_of
from peft_regress.workers.facts import facts_here, pack_own_code
from peft_regress.workers.node import Node, NodeSetup, Result, Task, check, do
from peft_regress.workers.pool import (
    Environment,
    GivenUpError,
    NodeError,
    UnusableEnvironmentError,
)
from peft_regress.workers.process import RequestRefusedError

if TYPE_CHECKING:
    from distributed import Future as DaskFuture

_Answer = TypeVar("_Answer", bound=msgspec.Struct)

_ADDRESS: Final = re.compile(r"(?:tcp|tls|ucx|ws|wss)://\S+:\d+")
_CONNECT_SECONDS: Final = 10.0
_WORKER_SECONDS: Final = 30.0
"""How long to wait for the first worker."""
_EMPTY_SECONDS: Final = 600.0
"""How long a cluster may have no worker before the command gives up."""
_RESULT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.5


_ERRORS: Final[dict[str, type[Exception]]] = {
    "node": NodeError,
    "source": SourceError,
    "work": RequestRefusedError,
    "environment": UnusableEnvironmentError,
}
"""What is raised of a problem of a node, by its kind."""


class ClusterLostError(AbsentError):
    """A scheduler that has gone, or one without a worker."""


@dataclass(eq=False)
class _Work:
    """A request, from its submission to its answer."""

    task: Task
    what: str
    """How messages name it."""
    key: str
    answer: type[msgspec.Struct]
    future: Future[Any] = field(default_factory=Future)
    there: DaskFuture[str] | None = None
    """What Dask does for it."""


class DaskPool:
    """The workers of a scheduler that have the resource `slot`; see `Pool`."""

    is_remote: Final = True

    def __init__(
        self, address: str, client: Client, *, uses_gpus: bool, say: Callable[[str], None]
    ) -> None:
        self._address = address
        self._client = client
        self._uses_gpus = uses_gpus
        self._resources = {"slot": 1, "gpu": 1} if uses_gpus else {"slot": 1}
        """What a task takes."""
        self._say = say
        self._name = f"peft-regress-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._waiting: deque[_Work] = deque()
        self._running: set[_Work] = set()
        self.slots = 0
        """How many workers there are."""
        self._has_ended = threading.Event()

    @property
    def status(self) -> str:
        """How many tasks run."""
        return f"{len(self._running)} running"

    def submit(
        self,
        environment: Environment,
        function: str,
        requests: Sequence[msgspec.Struct],
        answer: type[_Answer],
    ) -> list[Future[_Answer]]:
        """Call a function on a node for each request, see `Pool`."""
        works = []
        for request in requests:
            task = Task(
                function=function,
                request=msgspec.Raw(msgspec.json.encode(request)),
                planned=list(environment.planned),
                libraries=list(environment.libraries),
            )
            what = str(getattr(request, "case", function.rpartition(":")[2]))
            key = f"{self._name}-{what.replace('/', '-')}-{next(self._numbers)}"
            work = _Work(task, what, key, answer)
            work.future.add_done_callback(functools.partial(self._dropped, work))
            works.append(work)
        with self._lock:
            self._waiting.extend(works)
        self._start_some()
        return [work.future for work in works]

    def stop(self) -> None:
        """Cancel all that waits or runs; a worker that has begun goes on for a while."""
        for work in self._all():
            work.future.cancel()

    def _all(self) -> list[_Work]:
        with self._lock:
            return [*self._waiting, *self._running]

    def _dropped(self, work: _Work, future: Future[Any]) -> None:
        """Let Dask forget work that was cancelled."""
        if future.cancelled():
            with self._lock:
                self._running.discard(work)
            if work.there is not None:
                with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                    work.there.cancel()

    def _start_some(self) -> None:
        """Hand Dask as many tasks as there are slots.

        The death of a worker counts against all that Dask has assigned to it, so that cases that
        wait there would be given up for others that kill it.
        """
        try:
            with self._lock:
                while self._waiting and len(self._running) < self.slots:
                    work = self._waiting.popleft()
                    if work.future.cancelled():
                        continue
                    self._running.add(work)
                    task = msgspec.structs.replace(work.task, gpus=self._gpus())
                    work.there = self._client.submit(
                        do,
                        self._name,
                        msgspec.json.encode(task).decode(),
                        key=work.key,
                        resources=self._resources,
                        retries=0,  # what fails by itself is a result
                        pure=False,
                    )
                    work.there.add_done_callback(functools.partial(self._ended, work))
        except Exception:
            if self._is_up:
                raise
            self._fail(self._lost())

    def _ended(self, work: _Work, there: DaskFuture[str]) -> None:
        """Take a result; called in a thread of Dask's."""
        with self._lock:
            if work not in self._running:
                return
            self._running.discard(work)
        if work.future.set_running_or_notify_cancel():
            try:
                work.future.set_result(self._answer_of(work, there))
            except Exception as error:  # noqa: BLE001  (whoever waits for it raises it)
                work.future.set_exception(error)
        self._start_some()

    def _answer_of(self, work: _Work, there: DaskFuture[str]) -> msgspec.Struct:
        if there.status == "error":
            error = there.exception()
            if isinstance(error, KilledWorker):
                times = count_of(error.allowed_failures + 1, "node")
                last = getattr(error.last_worker, "address", "")
                self._say(
                    f"{work.what}: given up after losing {times}, {last} last; such a case "
                    "may take all memory of a node"
                )
                raise GivenUpError(work.key)
            raise InputError(clean(f"{work.key}: {type(error).__name__}: {error}", longest=600))
        if there.status != "finished":
            raise self._lost()
        try:
            result = msgspec.json.decode(there.result(timeout=_RESULT_SECONDS), type=Result)
            if result.problem is None:
                return msgspec.json.decode(result.answer, type=work.answer)
        except (OSError, TimeoutError, CancelledError):
            raise self._lost() from None
        except (msgspec.DecodeError, TypeError) as error:  # not a string, but a pickle
            shown = clean(str(error), longest=400)
            raise NodeError(
                f"node {work.key}: its answer is no result: {shown}. Start its worker again"
            ) from None
        problem = result.problem
        is_named = problem.startswith(result.node)
        raise _ERRORS[result.of](problem if is_named else f"{result.node}: {problem}")

    def _gpus(self) -> dict[str, str] | None:
        """Return which GPU of its host each worker has, by address; None if none is asked for."""
        if not self._uses_gpus:
            return None
        hosts: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        return {
            address: str(next(hosts[str(worker.get("host"))]))
            for address, worker in sorted(self._workers().items())
        }

    @property
    def _is_up(self) -> bool:
        return str(self._client.status) == "running"

    def _workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers with the resources, by address. Raises `ClusterLostError`."""
        if not self._is_up:
            raise self._lost()
        try:
            known = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError):
            raise self._lost() from None
        return {
            str(address): dict(worker)
            for address, worker in known.items()
            if self._resources.keys() <= (worker.get("resources") or {}).keys()
        }

    def _lost(self) -> ClusterLostError:
        """Return the error of a scheduler that has gone."""
        return ClusterLostError(f"{self._address}: the Dask scheduler has gone")

    def _no_worker(self) -> ClusterLostError:
        wanted = " ".join(f"{name}={amount}" for name, amount in self._resources.items())
        what = "no GPU" if self._uses_gpus else "no free place to measure"
        return ClusterLostError(
            f"{self._address}: {what}: no worker has the resources {wanted}. Start some with "
            f'`dask worker {self._address} --nthreads 1 --resources "{wanted}"`'
        )

    def _fail(self, error: Exception) -> None:
        """End all that waits or runs with an error."""
        with self._lock:
            works = self._all()
            self._waiting.clear()
            self._running.clear()
        for work in works:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(error)

    def watch(self) -> None:
        """Follow the workers that come and go, until `leave`."""
        seen = time.monotonic()
        while not self._has_ended.wait(_POLL_SECONDS):
            try:
                self.slots = len(self._workers())
                if self.slots:
                    seen = time.monotonic()
                elif time.monotonic() - seen > _EMPTY_SECONDS:
                    raise self._no_worker()
                self._start_some()
            except ClusterLostError as error:
                self._fail(error)

    def prepare(self, node: Node) -> None:
        """Let the workers prepare, those that join later too.

        Raises `NodeError` for a worker that lacks something, `ClusterLostError` if there is none.
        """
        deadline = time.monotonic() + _WORKER_SECONDS
        while not self._workers():
            if time.monotonic() > deadline:
                raise self._no_worker()
            time.sleep(0.2)
        self._client.register_plugin(node, name=self._name)
        lacking = self._client.run(check, self._name, workers=list(self._workers()))
        for lack in filter(None, lacking.values()):
            raise NodeError(lack)
        self.slots = len(lacking)

    def leave(self) -> None:
        """Stop, and let the nodes forget this command."""
        self._has_ended.set()
        self.stop()
        # Nobody may be there any more.
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if self._is_up:
                self._client.unregister_worker_plugin(self._name)


@contextlib.contextmanager
def opened_cluster(  # noqa: PLR0913  (all but the address by name)
    address: str,
    *,
    baselines: Path,
    say: Callable[[str], None],
    time_limit: float,
    pip_seconds: float,
    code: Sequence[str],
    uses_gpus: bool = False,
    own: Settings | None = None,
) -> Iterator[DaskPool]:
    """Connect to a scheduler, and prepare its workers.

    code: the packages whose code must be the same there. own: has the cases of a project.

    Raises `InputError` for what is no address, `ClusterLostError` if no scheduler of this Dask
    answers there or no worker can be used, `NodeError` for a worker that lacks something.
    """
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"--on {clean(repr(address))}: is neither `local` nor the address of a Dask scheduler, "
            "such as tcp://10.0.0.5:8786"
        )
    _silence()
    baselines = baselines.absolute()
    packed = None if own is None else pack_own_code(own)
    setup = NodeSetup(
        baselines=str(baselines),
        facts=facts_here(baselines, code, packed.modules if packed else ()),
        code=list(code),
        own=packed,
        time_limit=time_limit,
        pip_seconds=pip_seconds,
    )
    client = _client(address)
    try:
        pool = DaskPool(address, client, uses_gpus=uses_gpus, say=say)
        pool.prepare(Node(msgspec.json.encode(setup).decode()))
        say(f"{address}: {count_of(pool.slots, 'worker')}, dashboard {client.dashboard_link}")
        watching = threading.Thread(target=pool.watch, daemon=True)
        watching.start()
        try:
            yield pool
        finally:
            pool.leave()
            watching.join(_CONNECT_SECONDS)
    finally:
        # A scheduler that has gone cannot be told.
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.close(timeout=_CONNECT_SECONDS)


def _client(address: str) -> Client:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", VersionMismatchWarning)
            # In a thread of its own: in this one a loop may run.
            with ThreadPoolExecutor(1) as threads:
                threads.submit(lambda: asyncio.run(_check_scheduler(address))).result()
            return Client(
                address,
                timeout=_CONNECT_SECONDS,
                set_as_default=False,
                name="peft-regress",
                # Results are strings: nothing of theirs is unpickled.
                deserializers=["dask", "msgpack"],
            )
    except Exception as error:  # noqa: BLE001  (whatever Dask raises of what it cannot read)
        problem = clean(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise ClusterLostError(
            f"{address}: no Dask scheduler answers there ({problem}). Start one with `dask "
            "scheduler`, and name the address that it prints"
        ) from None


async def _check_scheduler(address: str) -> None:
    """Raise unless a scheduler answers in time; a `Client` waits for ever for a silent one."""
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=_CONNECT_SECONDS, connection_args=arguments) as there:
        found = await asyncio.wait_for(there.identity(), _CONNECT_SECONDS)
    if not str(found["type"]).endswith("Scheduler"):
        raise ValueError("it is something else of Dask")


def _silence() -> None:
    """Let Dask log nothing here: what matters becomes a message of this project."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"distributed", "tornado"}:
            logging.getLogger(name).setLevel(logging.CRITICAL)
