"""What every worker says, whatever it is for: a greeting, and that something cannot be done."""

from __future__ import annotations

import msgspec

__all__ = ["Hello", "Refused"]


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of a worker; `packages` are the versions that a number can depend on."""

    protocol: int
    packages: dict[str, str]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """What was asked for cannot be done here: the error's type and message."""

    error: str
