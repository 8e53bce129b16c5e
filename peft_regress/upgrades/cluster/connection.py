"""Find a Dask scheduler and the workers of it that can measure, or say what is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from distributed import Client, Security
from distributed.comm.core import CommClosedError
from distributed.core import rpc

from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.text import clean

SLOT: Final = "slot"
"""The resource of a worker that measures, of which each case takes one."""
GPU: Final = "gpu"

_ADDRESS: Final = re.compile(r"(?:tcp|tls|ucx|ws|wss)://\S+:\d+")
_CONNECT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 10.0
_WORKER_SECONDS: Final = 30.0
"""How long to wait for the first worker."""


class NodeError(PeftRegressError):
    """A node that cannot be used."""


class ClusterLostError(AbsentError):
    """A scheduler that has gone, or one without a worker."""


class Connection:
    """A scheduler that answers, and its workers."""

    def __init__(self, address: str, client: Client, *, uses_gpus: bool) -> None:
        self.address = address
        self.client = client
        self.uses_gpus = uses_gpus

    @property
    def resources(self) -> dict[str, float]:
        """What a task takes."""
        return {SLOT: 1, GPU: 1} if self.uses_gpus else {SLOT: 1}

    @property
    def is_up(self) -> bool:
        """Whether the scheduler answers as far as is known."""
        return str(self.client.status) == "running"

    @property
    def dashboard(self) -> str:
        """The address of Dask's own page."""
        return str(self.client.dashboard_link)

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers with the resources, by address. Raises `ClusterLostError`."""
        try:
            known = self.client.scheduler_info()["workers"] if self.is_up else None
        except (OSError, TimeoutError):
            known = None
        if known is None:
            raise self.lost()
        return {
            str(address): dict(worker)
            for address, worker in known.items()
            if all(
                (worker.get("resources") or {}).get(name, 0) >= amount
                for name, amount in self.resources.items()
            )
        }

    def gpus(self) -> dict[str, str] | None:
        """Return which GPU of its host each worker has, by address; None if none is asked for."""
        if not self.uses_gpus:
            return None
        found: dict[str, str] = {}
        hosts: dict[str, int] = {}
        for address, worker in sorted(self.workers().items()):
            host = str(worker.get("host"))
            found[address] = str(hosts.get(host, 0))
            hosts[host] = hosts.get(host, 0) + 1
        return found

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Raise `ClusterLostError` in place of what Dask raises if its scheduler has gone."""
        try:
            yield
        except PeftRegressError:
            raise
        except Exception as error:
            if isinstance(error, CommClosedError) or not self.is_up:
                raise self.lost() from error
            raise

    def lost(self) -> ClusterLostError:
        """Return the error of a scheduler that has gone."""
        return ClusterLostError(f"{self.address}: the Dask scheduler has gone")

    def no_worker(self) -> ClusterLostError:
        """Return the error of a cluster without a worker that can measure."""
        wanted = " ".join(f"{name}={amount:g}" for name, amount in self.resources.items())
        what = "no GPU" if self.uses_gpus else "no free place to measure"
        return ClusterLostError(
            f"{self.address}: {what}: no worker has the resources {wanted}. Start some with "
            f'`dask worker {self.address} --nthreads 1 --resources "{wanted}"`'
        )

    def wait_for_workers(self) -> None:
        """Wait for the first worker. Raises `ClusterLostError` if none comes."""
        deadline = time.monotonic() + _WORKER_SECONDS
        while not self.workers():
            if time.monotonic() > deadline:
                raise self.no_worker()
            time.sleep(0.2)


@contextlib.contextmanager
def connected(address: str, *, uses_gpus: bool = False) -> Iterator[Connection]:
    """Connect to a scheduler, and leave it at the end.

    Raises `InputError` for what is no address and for a scheduler of another Dask,
    `ClusterLostError` if nobody answers or no worker can measure.
    """
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"--on {clean(repr(address))}: is neither `local` nor the address of a Dask scheduler, "
            "such as tcp://10.0.0.5:8786"
        )
    _silence()
    client = _client(address)
    try:
        _check_version(address, client)
        connection = Connection(address, client, uses_gpus=uses_gpus)
        connection.wait_for_workers()
        yield connection
    finally:
        # A scheduler that has gone cannot be told.
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.close(timeout=_CLOSE_SECONDS)


def _client(address: str) -> Client:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, which are checked below
            asyncio.run(_check_scheduler(address))
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


def _check_version(address: str, client: Client) -> None:
    here = version("distributed")
    # Not `get_versions`, which asks every worker too.
    scheduler: Any = client.scheduler
    versions: Any = client.sync(scheduler.versions)
    there = clean(str(versions["packages"]["distributed"]))
    if there != here:
        raise InputError(
            f"{address}: the scheduler runs distributed {there}, and {here} is installed here; "
            f"install the same on both, such as `pip install distributed=={there}`"
        )


def _silence() -> None:
    """Let Dask log nothing here: what matters becomes a message of this project."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"distributed", "tornado"}:
            logging.getLogger(name).setLevel(logging.CRITICAL)
