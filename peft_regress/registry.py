"""Find methods, architectures and tasks by name, the built-in ones and those of other packages.

A package adds its own through an entry point of the groups `peft_regress.methods`,
`peft_regress.architectures` and `peft_regress.tasks`; a test suite through a call of `add` in its
conftest.py. The built-ins come in through the same entry points.

A family, from the group `peft_regress.architecture_families`, gives items by name without each of
them being registered, such as every classifier of torchvision. It is asked for a name that is not
registered, and for nothing else: what it gives is in no list and belongs to no matrix.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, get_args

from peft_regress.errors import InputError, UnknownNameError

__all__ = ["Family", "Named", "RegistryName", "add", "get", "items", "names", "remove"]

RegistryName = Literal["method", "architecture", "task"]


class Named(Protocol):
    """Anything that can be registered."""

    @property
    def name(self) -> str:
        """The name that stands in a case id."""


class Family(Protocol):
    """Many items by one rule. Both methods may import what they need: they are called late."""

    def names(self) -> tuple[str, ...]:
        """List every name that `find` knows."""

    def find(self, name: str) -> Named | None:
        """Return the item of exactly that name, or None where the family has none."""


_RANK_SUFFIX = re.compile(r"-r[0-9]+$")

_added: dict[str, dict[str, Any]] = {kind: {} for kind in get_args(RegistryName)}
_loaded: set[str] = set()
_found: dict[tuple[str, str], Any] = {}


def add(kind: RegistryName, item: Named) -> None:
    """Register a method, architecture or task, so that cases can name it.

    Raises `InputError` where the name is taken already, or cannot stand in a case id.
    """
    if kind not in _added:
        what = "kind of registration"
        raise UnknownNameError(what, kind, _added)
    name = item.name
    _load(kind)
    _insert(kind, name, item)


def get(kind: RegistryName, name: str) -> Any:
    """Return what is registered under a name, or else what a family has under it.

    Raises `UnknownNameError` with the registered names, and the closest one of the families' too.
    """
    _load(kind)
    if name in _added[kind]:
        return _added[kind][name]
    if (kind, name) not in _found:
        _found[kind, name] = _find(kind, name)
    return _found[kind, name]


def names(kind: RegistryName) -> tuple[str, ...]:
    """List the registered names of a kind, in order of registration; none of a family's."""
    _load(kind)
    return tuple(_added[kind])


def items(kind: RegistryName) -> tuple[Any, ...]:
    """List what is registered of a kind, in order of registration; nothing of a family's."""
    _load(kind)
    return tuple(_added[kind].values())


def remove(kind: RegistryName, name: str) -> None:
    """Take a registration back, for a test suite that must leave no trace."""
    _load(kind)
    if name not in _added[kind]:
        raise UnknownNameError(kind, name, _added[kind])
    del _added[kind][name]


def _insert(kind: str, name: str, item: Named) -> None:
    _check_name(kind, name)
    if name in _added[kind]:
        msg = f"a {kind} called {name!r} is registered already: {_added[kind][name]!r}"
        raise InputError(msg)
    _added[kind][name] = item


def _check_name(kind: str, name: str) -> None:
    spoils_id = any(c in "/*?[]" or c.isspace() or not c.isprintable() for c in name)
    # `lora-r4` as a name would give the same id as method `lora` of rank 4.
    if not name or spoils_id or (kind == "method" and _RANK_SUFFIX.search(name)):
        msg = f"a {kind} cannot be called {name!r}: it could not stand in a case id"
        raise InputError(msg)


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
    loaded: list[Named] = []
    for point, item in found:
        if isinstance(item, tuple):
            # A table of items under one entry point; each has a name of its own.
            loaded += item
            continue
        if item.name != point.name:
            msg = f"entry point {point.value!r} is called {point.name!r}, its {kind} {item.name!r}"
            raise InputError(msg)
        loaded.append(item)
    # By name, so that the order of cases depends on no order of installation.
    for item in sorted(loaded, key=lambda item: item.name):
        _insert(kind, item.name, item)


def _find(kind: str, name: str) -> Any:
    families = _families(kind)
    for title, family in families.items():
        item = family.find(name)
        if item is None:
            continue
        if item.name != name:
            msg = f"the {kind} family {title!r} gives {item.name!r} for {name!r}"
            raise InputError(msg)
        _check_name(kind, name)
        return item
    unlisted = {title: family.names() for title, family in families.items()}
    raise UnknownNameError(kind, name, _added[kind], unlisted=unlisted)


def _families(kind: str) -> dict[str, Family]:
    """Load the families of a kind, in the order of their names: the first that has a name wins."""
    points = entry_points(group=f"peft_regress.{kind}_families")
    return {point.name: point.load() for point in sorted(points, key=lambda point: point.name)}
