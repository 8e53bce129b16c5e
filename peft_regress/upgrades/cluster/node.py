"""A Dask worker's part of a command: what it must have, and the process that it keeps.

The process stays for the next task of the same environment, so that libraries are imported once.
It works in a folder and a process group of its own, and each case has a time limit. No torch.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, cast

import msgspec
from distributed import Worker, WorkerPlugin, get_worker

from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.overlay.overlay import opened_part
from peft_regress.overlay.pip import Planned
from peft_regress.text import clean
from peft_regress.upgrades.cluster.facts import difference, facts_here
from peft_regress.upgrades.cluster.messages import NodeSetup, Problem

_IDLE_SECONDS: Final = 120.0
"""After so long without a task the process ends: whoever asked may be gone."""
_PATIENCE_SECONDS: Final = 5.0


class LackError(PeftRegressError):
    """A node that lacks something."""


class Held(Protocol):
    """An environment and a process in it, which a node keeps for the next task."""

    @property
    def is_stopped(self) -> bool:
        """Whether it can do no more tasks."""

    def stop(self) -> None:
        """End the process, also while a task waits for it."""

    def close(self) -> None:
        """End the process, and let the environment go."""


_Kept = TypeVar("_Kept", bound=Held)


def check(name: str, dask_worker: Worker) -> str | None:
    """Return what this node lacks for a command; None if it lacks nothing."""
    return _node_of(name, dask_worker).lack()


def do(name: str, task: str) -> str:
    """Return the result of a task, both as JSON."""
    return _node_of(name, get_worker()).do(task)


def _node_of(name: str, worker: Worker) -> Node:
    """Return a worker's part of a command, by the name under which it was registered."""
    found = worker.plugins[name]
    assert isinstance(found, Node)  # noqa: S101  (the name is the command's own)
    return found


@contextlib.contextmanager
def opened_python(planned: Sequence[Planned], *, seconds: float) -> Iterator[Path]:
    """Give the interpreter of an environment on this node; of several workers one builds it."""
    if not planned:
        yield Path(sys.executable)
        return
    # Nobody removes it while it is open.
    with opened_part(planned, seconds=seconds) as overlay:
        yield overlay.python


def problem_of(error: Exception) -> Problem:
    """Return what a node says of an error that keeps it from a task."""
    of: Literal["environment", "source", "node"] = "node"
    if isinstance(error, AbsentError):
        of = "source"
    elif isinstance(error, InputError):
        of = "environment"
    return Problem(text=clean(str(error), longest=2000), of=of)


class Node(WorkerPlugin, ABC):
    """A Dask worker's part of one command; each worker that joins gets it from the scheduler."""

    def __init__(self, setup: str) -> None:
        """Take a `NodeSetup` as JSON."""
        self._json = setup

    def setup(self, worker: Worker) -> None:
        """Prepare to work; called on the worker."""
        self._worker = worker
        self._setup = msgspec.json.decode(self._json, type=NodeSetup)
        self._folder = Path(tempfile.mkdtemp(prefix="peft-regress-", dir=worker.local_directory))
        self._lock = threading.Lock()
        self._held: tuple[Any, Held] | None = None
        self._lack: str | None = None
        self._was_checked = False
        self._idle: threading.Timer | None = None
        self._is_closed = False

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask calls it so)
        """End the process, also while a task waits for it."""
        self._is_closed = True
        held = self._held
        if held is not None:
            held[1].stop()
        # Dask waits here, but not for a pip that a task has started.
        if self._lock.acquire(timeout=_PATIENCE_SECONDS):
            self.let_go()
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    @abstractmethod
    def do(self, message: str) -> str:
        """Return the result of a task, as JSON; a problem of the node is a result, too."""

    @property
    def name(self) -> str:
        """The name and the address of the Dask worker."""
        address, name = str(self._worker.address), str(self._worker.name)
        return address if name == address else f"{name} ({address})"

    def lack(self) -> str | None:
        """Return what this node lacks, with its name; None if it lacks nothing."""
        if not self._was_checked:
            self._lack, self._was_checked = self.lacking(), True
        return None if self._lack is None else f"node {self.name} {self._lack}"

    def lacking(self) -> str | None:
        """Return what this node lacks, without its name; None if it lacks nothing."""
        baselines = self._setup.baselines
        try:
            found = facts_here(Path(baselines))
        except OSError as error:
            return f"{error.filename}: cannot be read ({error.strerror})"
        lack = difference(self._setup.facts, found, python=sys.executable, baselines=baselines)
        threads = self._worker.state.nthreads
        if lack is None and threads != 1:
            return (
                f"has {threads} threads, and one process works at a time; start it with "
                "--nthreads 1"
            )
        return lack

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Do one task at a time; what is held stays for a while after it.

        Raises `LackError` if the node lacks something. A task that raises leaves nothing held.
        """
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                self._check()
                yield
            except BaseException:
                self.let_go()
                raise
            finally:
                self._idle = threading.Timer(_IDLE_SECONDS, self._end_idle)
                self._idle.daemon = True
                self._idle.start()

    def _check(self) -> None:
        lack = self.lack()
        if lack is not None:
            raise LackError(lack)

    def held(self, wanted: Any, make: Callable[[], _Kept]) -> _Kept:
        """Return what the last task held if it is of the same kind, else something new."""
        if self._held is None or self._held[0] != wanted or self._held[1].is_stopped:
            self.let_go()
            self._held = (wanted, make())
            if self._is_closed:
                self._held[1].stop()
        return cast("_Kept", self._held[1])  # what is wanted decides its type

    def _end_idle(self) -> None:
        with self._lock:
            self.let_go()

    def let_go(self) -> None:
        """End what is held."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._held is not None:
            self._held[1].close()
            self._held = None
