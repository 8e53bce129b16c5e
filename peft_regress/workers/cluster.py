"""A pool of the workers of a Dask scheduler: one task for each request, scheduled by Dask.

Dask carries strings to the nodes and back. A task whose node dies starts again on another one, as
often as Dask's `distributed.scheduler.allowed-failures` says; what fails by itself is a result.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from distributed import Client, KilledWorker, Security
from distributed import Future as DaskFuture
from distributed.comm.core import connect
from distributed.utils import LoopRunner
from distributed.versions import VersionMismatchWarning

from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.files import encoded
from peft_regress.project.project import Project
from peft_regress.text import clean, count_of
from peft_regress.workers.node import Job, Node, check, do, facts_here, own_code
from peft_regress.workers.pool import Environment, GivenUpError, NodeError

_Answer = TypeVar("_Answer", bound=msgspec.Struct)

_SLOT: Final = "slot"
_ADDRESS: Final = re.compile(r"(?:tcp|tls|ucx|ws|wss)://\S+:\d+")
_CONNECT_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 30.0
"""How long to wait for the first worker, and for a result that is there."""
_POLL_SECONDS: Final = 0.5


@dataclass(eq=False)
class _Work:
    """A request, from its submission to its answer."""

    task: str
    what: str  # for messages
    key: str
    answer: type[msgspec.Struct]
    future: Future[Any] = field(default_factory=Future)
    there: DaskFuture[str] | None = None


class DaskPool:
    """The workers of a scheduler that have the resource `slot`; see `LocalPool`."""

    is_remote: Final = True

    def __init__(self, address: str, client: Client, *, say: Callable[[str], None]) -> None:
        self._address = address
        self._client = client
        self._say = say
        self._name = f"peft-regress-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self._waiting: deque[_Work] = deque()
        self._running: set[_Work] = set()
        self.slots = 0  # how many workers there are
        self._woken = threading.Event()
        self._is_over = False

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
        """Call a function on a node for each request, see `LocalPool`."""
        works = []
        for request in requests:
            planned, libraries = list(environment.planned), list(environment.libraries)
            raw = msgspec.Raw(encoded(request))
            task = Job(function=function, request=raw, planned=planned, libraries=libraries)
            what = str(getattr(request, "case", function.rpartition(":")[2]))
            key = f"{self._name}-{what.replace('/', '-')}-{next(self._numbers)}"
            works.append(_Work(msgspec.json.encode(task).decode(), what, key, answer))
        self._waiting.extend(works)
        self._woken.set()
        return [work.future for work in works]

    def stop(self) -> None:
        """Cancel all that waits or runs; a worker that has begun goes on for a while."""
        for work in [*self._waiting, *self._running]:
            work.future.cancel()
        self._woken.set()

    def follow(self) -> None:
        """Hand Dask what waits, take what is done, and see workers come and go, until `leave`."""
        while not self._is_over:
            self._woken.wait(_POLL_SECONDS)
            self._woken.clear()
            try:
                self.slots = len(self._workers())
                self._turn()
            except Exception as error:  # noqa: BLE001  (whoever waits for an answer raises it)
                for work in [*self._waiting, *self._running]:
                    _end(work, error)
                self._waiting.clear()
                self._running.clear()

    def _turn(self) -> None:
        for work in list(self._running):
            assert work.there is not None  # noqa: S101  (it runs)
            if work.future.cancelled():
                work.there.cancel()
            elif work.there.done():
                self._take(work, work.there)
            else:
                continue
            self._running.discard(work)
        # As many as there are slots: the death of a worker counts against all that Dask has
        # assigned to it, so that cases that wait there would be given up for others that kill it.
        while self._waiting and len(self._running) < self.slots:
            work = self._waiting.popleft()
            if work.future.cancelled():
                continue
            # What fails by itself is a result.
            options = {"resources": {_SLOT: 1}, "retries": 0, "pure": False}
            work.there = self._client.submit(do, self._name, work.task, key=work.key, **options)
            work.there.add_done_callback(lambda _: self._woken.set())
            self._running.add(work)

    def _take(self, work: _Work, there: DaskFuture[str]) -> None:
        try:
            answer = msgspec.json.decode(there.result(timeout=_WAIT_SECONDS), type=work.answer)
        except KilledWorker as error:
            times = count_of(error.allowed_failures + 1, "node")
            last = getattr(error.last_worker, "address", "")
            lost = f"{work.what}: given up after losing {times}, {last} last"
            self._say(f"{lost}; such a case may take all memory of a node")
            _end(work, GivenUpError(work.key))
        except PeftRegressError as error:  # of the node
            _end(work, error)
        except (OSError, TimeoutError, CancelledError):
            _end(work, self.lost())
        except Exception as error:  # noqa: BLE001  (it may be a pickle, or raise anything)
            shown = clean(f"{type(error).__name__}: {error}", longest=600)
            nodes = ", ".join(*self._client.who_has([there]).values()) or "a node"
            _end(work, NodeError(f"{nodes}: its answer for {work.what} is no result: {shown}"))
        else:
            if work.future.set_running_or_notify_cancel():
                work.future.set_result(answer)

    def _workers(self) -> list[str]:
        """Return the workers with the resource. Raises `AbsentError`."""
        try:
            if str(self._client.status) != "running":
                raise self.lost()
            known = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError):
            raise self.lost() from None
        return [name for name, one in known.items() if _SLOT in (one["resources"] or {})]

    def lost(self) -> AbsentError:
        """Return the error of a scheduler that has gone."""
        return AbsentError(f"{self._address}: the Dask scheduler has gone")

    def prepare(self, node: Node) -> None:
        """Let the workers prepare, those that join later too.

        Raises `NodeError` for a worker that lacks something, `AbsentError` if there is none.
        """
        with contextlib.suppress(TimeoutError):
            self._client.wait_for_workers(1, timeout=_WAIT_SECONDS)
        workers = self._workers()
        if not workers:
            raise AbsentError(
                f"{self._address}: no worker has the resource {_SLOT}=1. Start some with "
                f'`dask worker {self._address} --nthreads 1 --resources "{_SLOT}=1"`'
            )
        try:
            self._client.register_plugin(node, name=self._name)
        except OSError:  # a worker died at that moment
            self._client.register_plugin(node, name=self._name)
        answers = self._client.run(check, self._name, workers=workers, on_error="return")
        alive = [one for one in answers.values() if not isinstance(one, OSError)]
        for lack in filter(None, alive):
            raise lack if isinstance(lack, Exception) else NodeError(lack)
        self.slots = len(alive)

    def leave(self) -> None:
        """Stop, and let the nodes forget this command."""
        self._is_over = True
        self.stop()
        # Nobody may be there any more.
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            if str(self._client.status) == "running":
                self._client.unregister_worker_plugin(self._name)


def _end(work: _Work, error: BaseException) -> None:
    if work.future.set_running_or_notify_cancel():
        work.future.set_exception(error)


@contextlib.contextmanager
def opened_cluster(  # noqa: PLR0913  (each is one setting)
    address: str,
    project: Project,
    code: Sequence[str],
    *,
    baselines: Path,
    say: Callable[[str], None],
    time_limit: float,
) -> Iterator[DaskPool]:
    """Connect to a scheduler, and prepare its workers for the cases of a project.

    code: the packages whose code must be the same there. Raises `InputError`, `AbsentError`
    if there is no scheduler or no worker, `NodeError` for a worker that lacks something.
    """
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"--on {clean(repr(address))}: is neither `local` nor the address of a Dask scheduler, "
            "such as tcp://10.0.0.5:8786"
        )
    # What matters becomes a message of this project.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"distributed", "tornado"}:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    root, own = baselines.absolute(), own_code(project)
    facts = facts_here(root, code, own)
    node = Node(baselines=str(root), facts=facts, code=list(code), own=own, time_limit=time_limit)
    client = _client(address)
    try:
        pool = DaskPool(address, client, say=say)
        try:
            pool.prepare(node)
        except (OSError, CancelledError):
            raise pool.lost() from None
        say(f"{address}: {count_of(pool.slots, 'worker')}, dashboard {client.dashboard_link}")
        following = threading.Thread(target=pool.follow, daemon=True)
        following.start()
        try:
            yield pool
        finally:
            pool.leave()
            following.join(_CONNECT_SECONDS)
    finally:
        # A scheduler that has gone cannot be told.
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.close(timeout=_CONNECT_SECONDS)


async def _greet(address: str) -> None:
    """Greet a scheduler: a client would wait for the answer for ever, and then not close."""
    secure = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, **secure), _CONNECT_SECONDS)
    await comm.close()


def _client(address: str) -> Client:
    # A loop in a thread of its own, as the client's is: this thread may run another one.
    loop = LoopRunner()
    try:
        loop.start()
        loop.run_sync(_greet, address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", VersionMismatchWarning)
            return Client(
                address,
                timeout=_CONNECT_SECONDS,
                set_as_default=False,
                name="peft-regress",
                # Results are strings: nothing of theirs is unpickled.
                deserializers=["dask", "msgpack"],
            )
    except Exception as error:  # noqa: BLE001  (whatever Dask raises of what it cannot read)
        problem = clean(str(error) or type(error).__name__, longest=200)
        raise AbsentError(
            f"{address}: no Dask scheduler answers there ({problem}). Start one with `dask "
            "scheduler`, and name the address that it prints"
        ) from None
    finally:
        loop.stop()
