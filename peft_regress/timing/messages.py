"""What conductor and worker say to each other: one JSON object a line."""

from __future__ import annotations

import msgspec

__all__ = ["PROTOCOL", "Answer", "Block", "Hello", "Prepare", "Prepared", "Refused", "Timed"]

PROTOCOL = 1
"""Raised when messages or the way of timing change: both sides must have the same."""


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Get ready to train a case; `baselines` is the folder with `sources/`."""

    case: str
    baselines: str


class Block(msgspec.Struct, frozen=True, kw_only=True, tag="block"):
    """Train a fresh model of the case for some steps."""

    seed: int
    steps: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of a worker; `packages` are the versions that a time can depend on."""

    protocol: int
    packages: dict[str, str]


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The case can be trained, and is defined by this digest."""

    definition: str


class Timed(msgspec.Struct, frozen=True, kw_only=True, tag="timed"):
    """The median seconds of a step of a block, the first step left out."""

    step_seconds: float


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """What was asked for cannot be done here: the error's type and message."""

    error: str


Request = Prepare | Block
Answer = Hello | Prepared | Timed | Refused
