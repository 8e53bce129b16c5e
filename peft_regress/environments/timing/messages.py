"""What conductor and worker say to each other: one JSON object a line."""

from __future__ import annotations

import msgspec

from peft_regress.environments.worker.messages import Refused

__all__ = [
    "PROTOCOL",
    "Answer",
    "Block",
    "Prepare",
    "Prepared",
    "Request",
    "Restart",
    "Restarted",
    "Timed",
]

PROTOCOL = 1
"""Raised when messages or the way of timing change: both sides must have the same."""


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Get ready to train a case; `baselines` is the folder with `sources/`."""

    case: str
    baselines: str


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag="restart"):
    """Begin the brief fine-tune of a seed anew, with a fresh model."""

    seed: int


class Block(msgspec.Struct, frozen=True, kw_only=True, tag="block"):
    """Take the next steps of it."""

    steps: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The case can be trained, and is defined by this digest."""

    definition: str


class Restarted(msgspec.Struct, frozen=True, kw_only=True, tag="restarted"):
    """The next step is the first one."""


class Timed(msgspec.Struct, frozen=True, kw_only=True, tag="timed"):
    """The seconds of each step of a block."""

    step_seconds: list[float]


Request = Prepare | Restart | Block
Answer = Prepared | Restarted | Timed | Refused
