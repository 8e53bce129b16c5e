"""The messages of a worker that examines adapters, besides those of every worker."""

from __future__ import annotations

import msgspec

from peft_fuzz.checklist.situations import Situation
from peft_regress.runs.schema import Failure
from peft_regress.text import clean


class Inspect(msgspec.Struct, frozen=True, kw_only=True):
    """Import peft and look at the configuration of a method."""

    method: str


class Inspected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """peft can be imported."""

    peft: str
    """Its version."""
    fields: dict[str, str] | None
    """The default of each field of the configuration; None if peft has no such method."""


class Examine(msgspec.Struct, frozen=True, kw_only=True):
    """Compute what a situation gives, and write the outputs into a folder."""

    situation: Situation
    folder: str
    is_base: bool
    """The base makes the checkpoint and the other side loads it."""


class Examined(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a situation gives; what could not be computed has a failure."""

    unavailable: str = ""
    """Why the network itself cannot compute in this number type here."""
    failures: dict[str, Failure] = {}
    """By what failed: adapting (or computing), a stage of `PARTS`, training, cost."""
    keys: dict[str, str] = {}
    """Type and shape of each tensor of the checkpoint that this side writes."""
    altered: list[str] = []
    """Tensors with other numbers than in the checkpoint of the base, from which they come."""
    types: dict[str, dict[str, str]] = {}
    """The number type of each parameter of the adapter, by name: `fresh` and `loaded`."""
    effect: float = 0.0
    """The largest difference that the adapter makes to an output."""
    losses: list[float] = []
    """Of a short training from a fresh adapter."""
    losses_rounded: list[float] = []
    """Of the same training on the base, with each weight moved by its rounding."""
    costs: dict[str, int] = {}
    """FLOPs and bytes of one training step."""

    def failure_at(self, *stages: str) -> str:
        """Return the first failure of some stages on one line; empty if there is none."""
        for stage in stages:
            if stage in self.failures:
                failure = self.failures[stage]
                return f"{stage}: {clean(f'{failure.type}: {failure.message}')}"
        return ""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Begin the training of a situation, whose steps are to be timed."""

    situation: Situation


class Started(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next step is the first one."""
