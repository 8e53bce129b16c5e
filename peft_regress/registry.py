"""Find methods, architectures and tasks by name, the built-in ones and those of other packages.

A package adds its own through an entry point of the groups `peft_regress.methods`,
`peft_regress.architectures` and `peft_regress.tasks`; a test suite through a call of `add` in its
conftest.py. The built-ins come in through the same entry points.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, get_args

from peft_regress.errors import InputError, UnknownNameError

__all__ = ["Named", "RegisteredKind", "add", "get", "items", "names", "remove"]

RegisteredKind = Literal["method", "architecture", "task"]


class Named(Protocol):
    """Anything that can be registered."""

    @property
    def name(self) -> str:
        """The name that stands in a case id."""


_RANK_SUFFIX = re.compile(r"-r[0-9]+$")

_added: dict[str, dict[str, Any]] = {kind: {} for kind in get_args(RegisteredKind)}
_loaded: set[str] = set()


def add(kind: RegisteredKind, item: Named) -> None:
    """Register a method, architecture or task, so that cases can name it.

    Raises `InputError` where the name is taken already, or cannot stand in a case id.
    """
    if kind not in _added:
        what = "kind of registration"
        raise UnknownNameError(what, kind, _added)
    name = item.name
    _load(kind)
    _insert(kind, name, item)


def get(kind: RegisteredKind, name: str) -> Any:
    """Return what is registered under a name, or raise `UnknownNameError` with the known ones."""
    _load(kind)
    try:
        return _added[kind][name]
    except KeyError:
        raise UnknownNameError(kind, name, _added[kind]) from None


def names(kind: RegisteredKind) -> tuple[str, ...]:
    """List the registered names of a kind, in order of registration."""
    _load(kind)
    return tuple(_added[kind])


def items(kind: RegisteredKind) -> tuple[Any, ...]:
    """List what is registered of a kind, in order of registration."""
    _load(kind)
    return tuple(_added[kind].values())


def remove(kind: RegisteredKind, name: str) -> None:
    """Take a registration back, for a test suite that must leave no trace."""
    get(kind, name)
    del _added[kind][name]


def _insert(kind: str, name: str, item: Named) -> None:
    spoils_id = any(c in "/*?[]" or c.isspace() or not c.isprintable() for c in name)
    # `lora-r4` as a name would give the same id as method `lora` of rank 4.
    if not name or spoils_id or (kind == "method" and _RANK_SUFFIX.search(name)):
        msg = f"a {kind} cannot be called {name!r}: it could not stand in a case id"
        raise InputError(msg)
    if name in _added[kind]:
        msg = f"a {kind} called {name!r} is registered already: {_added[kind][name]!r}"
        raise InputError(msg)
    _added[kind][name] = item


def _load(kind: str) -> None:
    if kind in _loaded:
        return
    _loaded.add(kind)
    try:
        found = [(point, point.load()) for point in entry_points(group=f"peft_regress.{kind}s")]
    except BaseException:
        # Or the next call would go on with half a registry.
        _loaded.discard(kind)
        raise
    for point, item in found:
        if item.name != point.name:
            msg = f"entry point {point.value!r} is called {point.name!r}, its {kind} {item.name!r}"
            raise InputError(msg)
        _insert(kind, point.name, item)
