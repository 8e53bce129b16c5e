"""A Dask worker's part of a command: what it must have, and the seat that it keeps.

The worker process stays for the next task of the same environment, so that libraries are imported
once. No torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

import msgspec
from distributed import Worker, WorkerPlugin, get_worker

from peft_regress.catalogue.own_cases import use_settings
from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.overlay.overlay import opened_part
from peft_regress.overlay.pip import Planned
from peft_regress.settings import Settings, read_settings
from peft_regress.text import clean
from peft_regress.workers.facts import Facts, OwnCode, difference, facts_here
from peft_regress.workers.pool import Environment, NodeError, Seat
from peft_regress.workers.process import WorkerError
from peft_regress.workers.serve import Functions

_IDLE_SECONDS: Final = 120.0
"""After so long without a task the process ends: whoever asked may be gone."""
_PATIENCE_SECONDS: Final = 5.0
_GPU_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"


_Kind = Literal["environment", "source", "work", "node"]


class NodeSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of one command have in common."""

    baselines: str
    """The storage, at the same path on every node."""
    facts: Facts
    time_limit: float
    """Seconds that one answer may take."""
    pip_seconds: float
    own: OwnCode | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A function to call in an environment, see `Pool.submit`."""

    function: str
    request: msgspec.Raw
    planned: list[Planned]
    """What the environment has over the node's own; empty for that itself."""
    libraries: list[str]
    gpus: dict[str, str] | None = None
    """The GPU of each Dask worker, by address; None hides all GPUs."""


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the function returned, or what kept the node from it."""

    node: str
    """As people find it: the name and the address of the Dask worker."""
    answer: msgspec.Raw = msgspec.Raw(b"null")
    problem: str | None = None
    of: _Kind = "node"
    """What is wrong: nothing can be done in the environment, a source model is absent, the worker
    refused, or the node itself cannot be used."""


def check(name: str, dask_worker: Worker) -> str | None:
    """Return what this node lacks for a command; None if it lacks nothing."""
    return _node_of(name, dask_worker).lack()


def do(name: str, task: str) -> str:
    """Return the `Result` of a `Task`, both as JSON."""
    return msgspec.json.encode(
        _node_of(name, get_worker()).do(msgspec.json.decode(task, type=Task))
    ).decode()


def _node_of(name: str, worker: Worker) -> Node:
    """Return a worker's part of a command, by the name under which it was registered."""
    found = worker.plugins[name]
    assert isinstance(found, Node)  # noqa: S101  (the name is the command's own)
    return found


def _kind(error: Exception) -> _Kind:
    if isinstance(error, AbsentError):
        return "source"
    if isinstance(error, InputError):
        return "environment"
    return "work" if isinstance(error, WorkerError) else "node"


class Node(WorkerPlugin):
    """A Dask worker's part of one command; each worker that joins gets it from the scheduler."""

    def __init__(self, setup: str) -> None:
        """Take a `NodeSetup` as JSON."""
        self._json = setup

    def setup(self, worker: Worker) -> None:
        """Prepare to work; called on the worker."""
        self._worker = worker
        self._setup = msgspec.json.decode(self._json, type=NodeSetup)
        self._folder = Path(tempfile.mkdtemp(prefix="peft-regress-", dir=worker.local_directory))
        address = str(worker.address)
        name = address if worker.name == address else f"{worker.name} ({address})"
        (self._folder / "work").mkdir()
        self._seat = Seat(
            self._folder / "work", time_limit=self._setup.time_limit, name=f"node {name}"
        )
        self._own: list[str] = []
        """Where the modules of the project are imported from."""
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._task: tuple[list[Planned], list[str]] | None = None
        """The environment that is open."""
        self._lack: str | None = None
        self._was_checked = False
        self._idle: threading.Timer | None = None

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask calls it so)
        """End the process, also while a task waits for it."""
        self._seat.stop()
        # Dask waits here, but not for a pip that a task has started.
        if self._lock.acquire(timeout=_PATIENCE_SECONDS):
            self._let_go()
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def do(self, task: Task) -> Result:
        """Do one task at a time; what is open stays for a while after it."""
        node = self._seat.name
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                lack = self.lack()
                if lack is not None:
                    raise NodeError(lack)
                environment = self._environment(task)
                answer = Functions().call(task.function, task.request, self._seat, environment)
                return Result(node=node, answer=msgspec.Raw(msgspec.json.encode(answer)))
            except (PeftRegressError, OSError) as error:
                self._let_go()
                return Result(node=node, problem=clean(str(error), longest=2000), of=_kind(error))
            finally:
                self._idle = threading.Timer(_IDLE_SECONDS, self._end_idle)
                self._idle.daemon = True
                self._idle.start()

    def _environment(self, task: Task) -> Environment:
        """Return the environment of a task, built if it is not there; it stays open."""
        setup, wanted = self._setup, (task.planned, task.libraries)
        folder = self._folder / "own" if setup.own else self._folder
        baselines = Path(setup.baselines)
        use_settings(
            read_settings(folder) if setup.own else Settings(folder=folder, baselines=baselines)
        )
        if self._task != wanted:
            self._let_go()
            self._task = wanted
            self._python = Path(sys.executable)
            if task.planned:
                # One of a node's workers builds it, and nobody removes it while it is open.
                opened = opened_part(task.planned, seconds=setup.pip_seconds)
                self._python = self._opened.enter_context(opened).python
        # Whoever started this worker may have chosen a GPU, as dask-cuda does.
        own_gpu = os.environ.get(_GPU_VARIABLE)
        gpu = "" if task.gpus is None else own_gpu or task.gpus.get(str(self._worker.address), "0")
        variables = [(_GPU_VARIABLE, gpu)]
        if self._own:
            paths = [*self._own[1:], os.environ.get("PYTHONPATH")]
            variables.append(("PYTHONPATH", os.pathsep.join(filter(None, paths))))
        return Environment(
            python=self._python,
            planned=tuple(task.planned),
            libraries=tuple(task.libraries),
            variables=tuple(variables),
        )

    def lack(self) -> str | None:
        """Return what this node lacks, with its name; None if it lacks nothing."""
        if not self._was_checked:
            self._lack, self._was_checked = self._lacking(), True
        return None if self._lack is None else f"{self._seat.name} {self._lack}"

    def _lacking(self) -> str | None:
        baselines, own = self._setup.baselines, self._setup.own
        try:
            found = facts_here(Path(baselines), list(self._setup.facts.code))
        except OSError as error:
            return f"{error.filename}: cannot be read ({error.strerror})"
        lack = difference(self._setup.facts, found, python=sys.executable, baselines=baselines)
        threads = self._worker.state.nthreads
        if lack is None and threads != 1:
            return (
                f"has {threads} threads, and one process works at a time; start it with "
                "--nthreads 1"
            )
        if lack is not None or own is None:
            return lack
        own.unpack(self._folder / "own")
        self._own = own.folders(self._folder / "own")
        name = own.other_module(self._folder / "own")
        return name and (
            f"has other code of {name} than the command; install the same there, and start the "
            "worker again"
        )

    def _end_idle(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        """End the process, and let its environment go."""
        if self._idle is not None:
            self._idle.cancel()
        self._seat.close()
        with contextlib.suppress(OSError):
            self._opened.close()
        self._task = None
