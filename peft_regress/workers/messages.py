"""The messages that every kind of worker exchanges: greeting, preparation of a case, refusal."""

from __future__ import annotations

import msgspec

PROTOCOL = 3
"""Raised when a message or the way of timing changes: both sides must have the same."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of a worker."""

    protocol: int
    packages: dict[str, str]
    """The version of each package that a number can depend on."""


class OwnCases(msgspec.Struct, frozen=True, kw_only=True):
    """Where a project's own cases are: names alone, since no object can travel."""

    folder: str
    """That of pyproject.toml; it comes first on `sys.path`."""
    paths: list[str]
    """Import paths `pkg.mod:NAME`."""


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Look up a case; the requests that follow are about it."""

    case: str
    """Its id."""
    baselines: str
    """The folder with `sources/`."""
    own: OwnCases | None = None
    """The project's own cases and bounds, if it has settings."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The worker knows the case."""

    definition: str
    """The digest that defines the case."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The worker cannot do what was asked."""

    error: str
    """The exception's type and message."""
