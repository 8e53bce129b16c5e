"""A Dask worker's part of a command: what it must have, and the seat that it keeps. No torch.

The worker process stays for the next task of the same environment, so that libraries are imported
once.
"""

from __future__ import annotations

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
from peft_regress.workers.facts import OwnCode, difference, facts_here
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
    facts: dict[str, str]
    """What a node must have, see `facts_here`."""
    code: list[str]
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
    return _node_of(name, dask_worker).lack


def do(name: str, task: str) -> str:
    """Return the `Result` of a `Task`, both as JSON."""
    result = _node_of(name, get_worker()).do(msgspec.json.decode(task, type=Task))
    return msgspec.json.encode(result).decode()


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
        self._address = str(worker.address)
        self._setup = setup = msgspec.json.decode(self._json, type=NodeSetup)
        self._folder = Path(tempfile.mkdtemp(prefix="peft-regress-", dir=worker.local_directory))
        (self._folder / "work").mkdir()
        is_named = worker.name != self._address
        self._name = f"node {worker.name} ({self._address})" if is_named else f"node {worker.name}"
        self._seat = Seat(self._folder / "work", time_limit=setup.time_limit, name=self._name)
        self._search = setup.own.unpack(self._folder / "own") if setup.own else []
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._planned: list[Planned] | None = None
        """Of the environment that is open."""
        self._idle = threading.Timer(0, self._end_idle)
        lack = self._lacking(worker.state.nthreads)
        self.lack = None if lack is None else f"{self._name} {lack}"

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask calls it so)
        """End the process, also while a task waits for it."""
        self._seat.stop()
        # Dask waits here, but not for a pip that a task has started.
        if self._lock.acquire(timeout=_PATIENCE_SECONDS):
            self._let_go()
            self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lacking(self, threads: int) -> str | None:
        setup, own = self._setup, self._setup.own
        if threads != 1:
            return (
                f"has {threads} threads, and one process works at a time; start it with "
                "--nthreads 1"
            )
        try:
            modules = own.modules if own else ()
            found = facts_here(Path(setup.baselines), setup.code, modules, self._search)
        except OSError as error:
            return f"{error.filename}: cannot be read ({error.strerror})"
        return difference(setup.facts, found, python=sys.executable, baselines=setup.baselines)

    def do(self, task: Task) -> Result:
        """Do one task at a time; what is open stays for a while after it."""
        with self._lock:
            self._idle.cancel()
            try:
                if self.lack is not None:
                    raise NodeError(self.lack)
                environment = self._environment(task)
                answer = Functions().call(task.function, task.request, self._seat, environment)
                return Result(node=self._name, answer=msgspec.Raw(msgspec.json.encode(answer)))
            except (PeftRegressError, OSError) as error:
                self._let_go()
                problem = clean(str(error), longest=2000)
                return Result(node=self._name, problem=problem, of=_kind(error))
            finally:
                self._idle = threading.Timer(_IDLE_SECONDS, self._end_idle)
                self._idle.daemon = True
                self._idle.start()

    def _environment(self, task: Task) -> Environment:
        """Return the environment of a task, built if it is not there; it stays open."""
        setup = self._setup
        if setup.own is None:
            use_settings(Settings(folder=self._folder, baselines=Path(setup.baselines)))
        else:
            use_settings(read_settings(self._folder / "own"))
        if self._planned != task.planned:
            self._let_go()
            self._planned, self._python = task.planned, Path(sys.executable)
            if task.planned:
                # One of a node's workers builds it, and nobody removes it while it is open.
                opened = opened_part(task.planned, seconds=setup.pip_seconds)
                self._python = self._opened.enter_context(opened).python
        # Whoever started this worker may have chosen a GPU, as dask-cuda does.
        gpu = os.environ.get(_GPU_VARIABLE) or (task.gpus or {}).get(self._address, "0")
        paths = [*self._search[1:], os.environ.get("PYTHONPATH")]
        return Environment(
            python=self._python,
            planned=tuple(task.planned),
            libraries=tuple(task.libraries),
            variables=(
                (_GPU_VARIABLE, "" if task.gpus is None else gpu),
                ("PYTHONPATH", os.pathsep.join(filter(None, paths))),
            ),
        )

    def _end_idle(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        """End the process, and let its environment go."""
        self._idle.cancel()
        self._seat.close()
        self._opened.close()
        self._planned = None
