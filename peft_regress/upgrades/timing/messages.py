"""The messages of a worker that times training steps, besides those of every worker."""

from __future__ import annotations

import msgspec


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag="restart"):
    """Begin the brief fine-tuning of a seed again, with a fresh model."""

    seed: int


class Restarted(msgspec.Struct, frozen=True, kw_only=True, tag="restarted"):
    """The next step is the first one."""


class TimeSteps(msgspec.Struct, frozen=True, kw_only=True, tag="time_steps"):
    """Take the next steps of the fine-tuning."""

    steps: int


class Timed(msgspec.Struct, frozen=True, kw_only=True, tag="timed"):
    """The steps were taken."""

    step_seconds: list[float]
    """Of each step."""
