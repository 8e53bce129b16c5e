"""What a command and the nodes exchange, as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from peft_regress.cases import Name, Version
from peft_regress.gate.repeats import KnownCurve
from peft_regress.overlay.pip import Planned
from peft_regress.runs.schema import Machine, Record


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the numbers of a node, and must be as in the process that asks."""

    packages: dict[str, str]
    """The versions of Python and of what a number can depend on."""
    dask: str
    """The version of distributed."""
    code: str
    """Digest of the code of peft_regress."""
    files: dict[str, str]
    """SHA-256 of each source model and stored adapter, by its path in the storage."""


class OwnCode(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own cases: their import paths, and the code that lies beside pyproject.toml."""

    paths: list[str]
    archive: bytes
    """A zip file with pyproject.toml."""
    search: list[str]
    """Folders of the archive that modules are imported from besides itself, such as `src`."""
    modules: dict[str, str]
    """SHA-256 of each own module that the cases import, by name."""


class NodeSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of one command have in common."""

    topic: str
    """Under which a node tells how far it is."""
    baselines: str
    """The storage, at the same path on every node."""
    facts: Facts
    own: OwnCode | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Cases that share a cost profile, in one environment."""

    key: str
    planned: list[Planned]
    """What the environment has over the node's own; empty for that itself."""
    cases: list[str]
    """Ids."""
    trains: bool
    keeps_adapters: bool
    known: dict[str, list[KnownCurve]]
    time_limit: float
    pip_seconds: float
    gpus: dict[str, str] | None = None
    """The GPU of each Dask worker, by address; None hides all GPUs from the cases."""


class MeasuredCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record, and what a local worker would have left beside it."""

    record: Record
    imported: dict[Name, Version]
    """The packages that the case uses beyond the requirements of this package."""
    adapter: dict[str, bytes]
    """The files of the kept adapter, by name."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a node cannot do a task."""

    text: str
    of: Literal["environment", "source", "node"]
    """What is wrong: nothing can be measured in the environment, a source model is absent, or the
    node itself cannot be used."""


class TaskResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one attempt at a task gave."""

    attempt: str
    node: str
    """As people find it: the name and the address of the Dask worker."""
    machine: Machine | None = None
    environment: dict[Name, Version] = {}
    cases: list[MeasuredCase] = []
    problem: Problem | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A node has measured a case, and goes on with the next one of the task."""

    key: str
    attempt: str
    node: str
    case: str
    exact: dict[str, int | float]
    """The exact metrics that were measured."""
