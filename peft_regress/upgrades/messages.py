"""The messages of a worker that measures cases, besides those of every worker."""

from __future__ import annotations

import msgspec

from peft_regress.gate.repeats import KnownCurve
from peft_regress.runs.schema import Machine, Record


class Import(msgspec.Struct, frozen=True, kw_only=True, tag="import"):
    """Import modules by name, in this order."""

    modules: list[str]


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag="imported"):
    """The modules can be imported."""

    machine: Machine
    files: dict[str, str]
    """Where each module comes from, by name."""


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Measure the prepared case."""

    trains: bool
    """Without, the record has only the costs of a step."""
    keep_adapters: str | None = None
    """The folder to keep adapters in."""
    known: list[KnownCurve] = []
    """What need not be trained again."""


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """The case was measured, or failed."""

    record: Record
    packages: dict[str, str] = {}
    """The versions of what the case uses beyond the requirements of this package."""
