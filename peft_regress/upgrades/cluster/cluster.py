"""A Dask cluster whose workers have a part of a command: what all such commands share."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import msgspec

from peft_regress.errors import InputError, SourceError
from peft_regress.overlay.pip import Planned
from peft_regress.runs.schema import canonical_digest
from peft_regress.settings import Settings
from peft_regress.text import clean, count_of
from peft_regress.upgrades.cluster.attempts import Attempts
from peft_regress.upgrades.cluster.messages import NodeSetup, Problem
from peft_regress.upgrades.cluster.own_code import pack_own_code
from peft_regress.upgrades.cluster.slots import Slots
from peft_regress.upgrades.measuring import UnusableEnvironmentError

if TYPE_CHECKING:
    from distributed import Future

    from peft_regress.upgrades.cluster.connection import Connection, NodeError
    from peft_regress.upgrades.cluster.node import Node

_Answer = TypeVar("_Answer", bound=msgspec.Struct)

_TRIES: Final = 5
_RESULT_SECONDS: Final = 60.0
_WITHOUT_WORKER_SECONDS: Final = 600.0
"""How long to wait for a worker if all of them have gone."""


class Cluster:
    """The workers of a scheduler, of which each has a part of this command."""

    def __init__(self, connection: Connection, *, name: str, say: Callable[[str], None]) -> None:
        """Use the plugin `name`."""
        self.connection = connection
        self._plugin = name
        self.say = say
        self.slots = Slots(connection.workers)
        self.attempts = Attempts()
        self._numbers = itertools.count(1)
        self._is_stopped = threading.Event()

    @property
    def status(self) -> str:
        """How many tasks run, and how many were lost."""
        lost = self.attempts.lost
        return f"{self.attempts.running} running" + (f", {lost} lost" if lost else "")

    def stop(self) -> None:
        """Let `check` raise, in whichever thread."""
        self._is_stopped.set()

    def told(self, event: tuple[float, str]) -> None:
        """Take what a node tells: the time, and a message."""
        self.attempts.told(event[1])

    def submit(self, task: msgspec.Struct, worker: str, key: str) -> Future[str]:
        """Let a worker's part of the command do a task."""
        from peft_regress.upgrades.cluster.node import do

        return self.connection.client.submit(
            do,
            self._plugin,
            msgspec.json.encode(task).decode(),
            key=key,
            workers=[worker],
            resources=self.connection.resources,
            retries=0,  # what fails by itself is data
            pure=False,
        )

    def check(self) -> None:
        """Raise if the work cannot go on."""
        if self._is_stopped.is_set():
            raise InputError("interrupted")
        if not self.connection.is_up:
            raise self.connection.lost()
        if self.slots.seconds_empty > _WITHOUT_WORKER_SECONDS:
            raise self.connection.no_worker()

    def new_key(self, environment: str, what: str) -> str:
        """Return the name of a task, as Dask's page shows it."""
        return f"{self._plugin}-{environment}-{what.replace('/', '-')}-{next(self._numbers)}"


def raise_problem(problem: Problem, node: str) -> NoReturn:
    """Raise what kept a node from a task, with the name of the node."""
    text = f"node {node}: {problem.text}"
    if problem.of == "node":
        from peft_regress.upgrades.cluster.connection import NodeError

        raise NodeError(problem.text if problem.text.startswith("node ") else text)
    raise SourceError(text) if problem.of == "source" else UnusableEnvironmentError(text)


def message_of(future: Future[str]) -> str | None:
    """Return the result of a task; None if it was lost. Raises `InputError` for any other error."""
    from distributed import KilledWorker

    if future.status == "finished":
        try:
            return future.result(timeout=_RESULT_SECONDS)
        except (OSError, TimeoutError, CancelledError):
            return None  # the node has gone with the result
        except TypeError as problem:  # not a string, but a pickle
            raise no_answer(str(future.key), problem) from None
    if future.status != "error":
        return None
    error = future.exception()
    if isinstance(error, KilledWorker):
        return None
    raise InputError(clean(f"{future.key}: {type(error).__name__}: {error}", longest=600))


def read_answer(message: str, kind: type[_Answer], node: str) -> _Answer:
    """Return what a node answers. Raises `NodeError` for anything else."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.DecodeError, TypeError) as error:
        raise no_answer(node, error) from None


def no_answer(node: str, problem: Exception) -> NodeError:
    """Return the error of a node that answers what nobody asked."""
    from peft_regress.upgrades.cluster.connection import NodeError

    shown = clean(str(problem), longest=400)
    return NodeError(f"node {node}: its answer is no result: {shown}. Start its worker again")


def digest_of(planned: Sequence[Planned]) -> str:
    """Return a name of an environment."""
    return canonical_digest(msgspec.to_builtins(planned)).removeprefix("sha256:")[:8]


def require_dask() -> None:
    """Raise `InputError` without Dask."""
    if find_spec("distributed") is None:
        raise InputError(
            "--on needs Dask, which is not installed: pip install 'peft-regress[cluster]'"
        )


@contextlib.contextmanager
def opened_cluster(  # noqa: PLR0913  (all but the address by name)
    address: str,
    *,
    baselines: Path,
    say: Callable[[str], None],
    node: Callable[[str], Node],
    uses_gpus: bool = False,
    own: Settings | None = None,
) -> Iterator[Cluster]:
    """Connect to a scheduler, and prepare its workers, those that join later too.

    `node` makes the part of a worker; `own` are the settings of a project whose cases the workers
    need.

    Raises `InputError` for what is no address, `ClusterLostError` if nobody answers there or no
    worker can be used, `NodeError` for a worker that lacks something.
    """
    from peft_regress.upgrades.cluster.connection import connected
    from peft_regress.upgrades.cluster.facts import facts_here

    baselines = baselines.absolute()
    code = None if own is None else pack_own_code(own)
    with connected(address, uses_gpus=uses_gpus) as connection:
        client = connection.client
        name = f"peft-regress-{uuid.uuid4().hex[:8]}"
        setup = NodeSetup(
            topic=name,
            baselines=str(baselines),
            facts=facts_here(baselines),
            own=code,
        )
        part = node(msgspec.json.encode(setup).decode())
        cluster = Cluster(connection, name=name, say=say)
        client.subscribe_topic(name, cluster.told)
        try:
            workers = _prepared(connection, part, name)
            say(f"{address}: {count_of(workers, 'worker')}, dashboard {connection.dashboard}")
            yield cluster
        finally:
            cluster.stop()
            # Nobody may be there any more.
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                if connection.is_up:
                    client.unregister_worker_plugin(name)


def _prepared(connection: Connection, node: Node, name: str) -> int:
    """Let the workers prepare, and return how many there are. Raises `NodeError`."""
    from peft_regress.upgrades.cluster.connection import NodeError
    from peft_regress.upgrades.cluster.node import check

    client, problem = connection.client, ""
    for _ in range(_TRIES):
        try:
            client.register_plugin(node, name=name)
            workers = list(connection.workers())
            lacking = client.run(check, name, workers=workers)
        except (OSError, TimeoutError, KeyError) as error:
            problem = clean(f"{type(error).__name__}: {error}", longest=400)
            continue  # one of them has just died
        for lack in filter(None, lacking.values()):
            raise NodeError(lack)
        return len(workers)
    raise NodeError(
        f"{connection.address}: its workers die when they are asked ({problem}); read their logs"
    )
