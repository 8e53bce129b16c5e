"""What the conductor of an upgrade and its workers say to each other: one JSON object a line."""

from __future__ import annotations

import msgspec

from peft_regress.environments.worker.messages import Refused
from peft_regress.runs.schema import Failure, Machine, Record  # noqa: TC001  (msgspec reads them)

__all__ = [
    "PROTOCOL",
    "Answer",
    "Failed",
    "Import",
    "Imported",
    "Measure",
    "Measured",
    "Request",
    "Started",
]

PROTOCOL = 1
"""Raised when the messages change: both sides must have the same."""


class Import(msgspec.Struct, frozen=True, kw_only=True, tag="import"):
    """Import modules by name, in this order."""

    modules: list[str]


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Measure a case; `baselines` is the folder with `sources/`.

    Without `trains` the record has the costs of a step alone. Adapters are kept in the folder
    `keep_adapters`.
    """

    case: str
    baselines: str
    trains: bool
    keep_adapters: str | None = None


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag="imported"):
    """What was asked for can be imported; `files` are where the modules came from, by name."""

    machine: Machine
    files: dict[str, str]


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The case is known here, and is defined by this digest; its record is what comes next."""

    definition: str


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """The record of the case."""

    record: Record


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The case has no record, since something failed that measuring has no state for."""

    failure: Failure


Request = Import | Measure
Answer = Imported | Started | Measured | Failed | Refused
