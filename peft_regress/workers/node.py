"""A Dask worker's part of a command: what it must have, and the seat that it keeps. No torch.

No code travels: the storage and the project lie at the same paths on every node, and what is
installed must be installed there too. The worker process stays for the next task of the same
environment, so that libraries are imported once.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec
from distributed import Worker, WorkerPlugin, get_worker

from peft_regress.errors import AbsentError, InputError, PeftRegressError, SourceError
from peft_regress.files import read_bytes
from peft_regress.imports import INSTALLED
from peft_regress.overlay.overlay import opened_part
from peft_regress.overlay.pip import Planned
from peft_regress.project.project import Project
from peft_regress.project.settings import Pip
from peft_regress.runs.environment import installed_packages
from peft_regress.runs.own_code import digest_of, own_modules
from peft_regress.text import clean, printable
from peft_regress.workers.pool import Environment, NodeError, Seat, UnusableEnvironmentError
from peft_regress.workers.serve import Functions
from peft_regress.workers.worker import RequestRefusedError, WorkerError

_IDLE_SECONDS: Final = 120.0
"""After so long without a task the process ends: whoever asked may be gone."""
_SHARED: Final = ("sources", "adapters")  # of a storage, what a case reads


class OwnCode(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a project's own cases, at the same path on every node."""

    folder: str
    """That of pyproject.toml."""
    search: list[str]
    """Folders below it that modules are imported from, itself first."""
    modules: list[str]
    """The own modules that the cases import."""
    pip: Pip


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A function to call in an environment, see `LocalPool.submit`."""

    function: str
    request: msgspec.Raw
    planned: list[Planned]
    """What the environment has over the node's own; empty for that itself."""
    libraries: list[str]


def facts_here(baselines: Path, code: Iterable[str], own: OwnCode | None) -> dict[str, str]:
    """Return what decides the numbers of this process: versions and digests by what they are of.

    code: packages of this project. Raises `OSError` for a file that cannot be read.
    """
    packages = {**installed_packages(), "distributed": version("distributed")}
    modules, search = (own.modules, own.search) if own else ([], [])
    shared = [path for folder in _SHARED for path in (baselines / folder).rglob("*")]
    shared += [Path(own.folder) / "pyproject.toml"] if own else []
    files = {path: f"file {path}" for path in shared if path.is_file()}
    for name in code:
        spec = find_spec(name)
        if spec is not None and spec.origin:
            root = Path(spec.origin).parent
            files |= {path: f"code {name}/{path.relative_to(root)}" for path in root.rglob("*.py")}
    return {
        **{f"package {name}": found for name, found in packages.items()},
        **{f"module {name}": digest_of(name, search) or "absent" for name in modules},
        **{name: hashlib.sha256(read_bytes(path)).hexdigest()[:16] for path, name in files.items()},
    }


def own_code(project: Project) -> OwnCode | None:
    """Return where the code of a project's cases lies; None without settings.

    Raises `InputError` for cases that do not import.
    """
    if project.folder is None:
        return None
    project.cases()  # imports what they need
    root = Path(project.folder)
    entries = (Path(entry).resolve() for entry in sys.path if entry)
    below = (
        str(entry)
        for entry in entries
        # An environment inside the project holds installed packages.
        if entry.is_relative_to(root) and INSTALLED.isdisjoint(entry.parts)
    )
    modules = (own_modules(path.partition(":")[0]) for path in project.settings.cases)
    search = list(dict.fromkeys([str(root), *below]))
    names = sorted({name for found in modules for name in found})
    return OwnCode(folder=str(root), search=search, modules=names, pip=project.settings.pip)


_CARRIED: Final[dict[type[Exception], type[PeftRegressError]]] = {
    AbsentError: SourceError,
    InputError: UnusableEnvironmentError,
    WorkerError: RequestRefusedError,
    Exception: NodeError,
}
"""What Dask carries in place of an error: one that is made of its message alone."""


@dataclass(kw_only=True)
class Node(WorkerPlugin):
    """A Dask worker's part of one command; each worker that joins gets it from the scheduler."""

    baselines: str
    """The storage, at the same path on every node."""
    facts: dict[str, str]
    """What a node must have, see `facts_here`."""
    code: list[str]
    time_limit: float
    """Seconds that one answer may take."""
    own: OwnCode | None = None

    def setup(self, worker: Worker) -> None:
        """Prepare to work; called on the worker."""
        self._folder = Path(tempfile.mkdtemp(prefix="peft-regress-", dir=worker.local_directory))
        self._name = f"node {worker.name} ({worker.address})"
        self._seat = Seat(self._folder, time_limit=self.time_limit, name=self._name)
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._planned: list[Planned] | None = None
        """Of the environment that is open."""
        self._idle = threading.Timer(0, self._end_idle)
        self.lack = self._lacking()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  (Dask calls it so)
        """End the process, also while a task waits for it."""
        self._seat.stop()
        self._let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lacking(self) -> str | None:
        """Return the first difference to the command's machine; None if there is none."""
        try:
            found = facts_here(Path(self.baselines), self.code, self.own)
        except OSError as error:
            return f"{self._name}: {error.filename} cannot be read ({error.strerror})"
        for name in sorted(self.facts.keys() | found.keys()):
            here, there = self.facts.get(name, "absent"), found.get(name, "absent")
            if here != there:
                return printable(
                    f"{self._name}: {name} is {there} there and {here} here; make both the same, "
                    "and start the worker again"
                )
        return None

    def do(self, task: Job) -> str:
        """Do one task at a time; what is open stays for a while after it."""
        with self._lock:
            self._idle.cancel()
            try:
                if self.lack is not None:
                    raise NodeError(self.lack)
                environment = self._environment(task)
                answer = Functions().call(task.function, task.request, self._seat, environment)
                return msgspec.json.encode(answer).decode()
            except (PeftRegressError, OSError) as error:
                self._let_go()
                problem = clean(str(error).removeprefix(f"{self._name}: "), longest=2000)
                carried = next(_CARRIED[kind] for kind in _CARRIED if isinstance(error, kind))
                raise carried(f"{self._name}: {problem}") from None
            finally:
                self._idle = threading.Timer(_IDLE_SECONDS, self._end_idle)
                self._idle.daemon = True
                self._idle.start()

    def _environment(self, task: Job) -> Environment:
        """Return the environment of a task, built if it is not there; it stays open."""
        if self._planned != task.planned:
            self._let_go()
            self._planned, self._python = task.planned, Path(sys.executable)
            if task.planned:
                # One of a node's workers builds it, and nobody removes it while it is open.
                opened = opened_part(task.planned, self.own.pip if self.own else Pip())
                self._python = self._opened.enter_context(opened).python
        paths = [*(self.own.search[1:] if self.own else ()), os.environ.get("PYTHONPATH")]
        return Environment(
            python=self._python,
            planned=tuple(task.planned),
            libraries=tuple(task.libraries),
            variables=(("PYTHONPATH", os.pathsep.join(filter(None, paths))),),
        )

    def _end_idle(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        self._idle.cancel()
        self._seat.close()
        self._opened.close()
        self._planned = None


def check(name: str, dask_worker: Worker) -> str | None:
    """Return what this node lacks for a command; None if it lacks nothing."""
    return _node_of(name, dask_worker).lack


def do(name: str, task: str) -> str:
    """Do a `Job`; return the answer, both as JSON. Raises what Dask can carry."""
    return _node_of(name, get_worker()).do(msgspec.json.decode(task, type=Job))


def _node_of(name: str, worker: Worker) -> Node:
    """Return a worker's part of a command, by the name under which it was registered."""
    found = worker.plugins[name]
    assert isinstance(found, Node)  # noqa: S101  (the name is the command's own)
    return found
