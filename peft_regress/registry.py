"""Find methods, architectures and tasks by name, built-in ones and those of other packages.

A package adds its own by an entry point in one of the groups `peft_regress.methods`,
`peft_regress.architectures` and `peft_regress.tasks`; a test suite calls `add` in its conftest.py.
The built-in ones use the same entry points.

A family, from the group `peft_regress.architecture_families`, has items by name that are not
registered one by one, such as every classifier of torchvision. It is asked only for names that are
not registered; its items are in no list and belong to no matrix.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, get_args

from peft_regress.cases import NAME_RULE, is_name
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.imports import told
from peft_regress.text import printable

RegistryName = Literal["method", "architecture", "task"]


class Named(Protocol):
    """Anything that can be registered."""

    @property
    def name(self) -> str:
        """The name in a case id."""


class Family(Protocol):
    """Many items by one rule. Its methods are called late and may import what they need."""

    def names(self) -> tuple[str, ...]:
        """List every name that `find` knows."""

    def find(self, name: str) -> Named | None:
        """Return the item of exactly that name, or None if the family has none."""


_RANK_SUFFIX = re.compile(r"-r[0-9]+$")

_added: dict[str, dict[str, Any]] = {registry: {} for registry in get_args(RegistryName)}
_loaded: set[str] = set()
_found: dict[tuple[str, str], Any] = {}


def add(registry: RegistryName, item: Named) -> None:
    """Register a method, architecture or task, so that cases can name it.

    Raises `InputError` if the name is taken or cannot be part of a case id.
    """
    if registry not in _added:
        what = "registry"
        raise UnknownNameError(what, registry, _added)
    _load(registry)
    _insert(registry, item)


def get(registry: RegistryName, name: str) -> Any:
    """Return the registered item of a name, or else a family's.

    Raises `UnknownNameError`, which lists the registered names and suggests the closest name, also
    from the families.
    """
    _load(registry)
    if name in _added[registry]:
        return _added[registry][name]
    if (registry, name) not in _found:
        _found[registry, name] = _find(registry, name)
    return _found[registry, name]


def names(registry: RegistryName) -> tuple[str, ...]:
    """List the registered names, in order of registration, without those of families."""
    _load(registry)
    return tuple(_added[registry])


def items(registry: RegistryName) -> tuple[Any, ...]:
    """List the registered items, in order of registration, without those of families."""
    _load(registry)
    return tuple(_added[registry].values())


def remove(registry: RegistryName, name: str) -> None:
    """Remove a registration, for a test suite that must leave no trace.

    Raises `UnknownNameError`.
    """
    _load(registry)
    if name not in _added[registry]:
        raise UnknownNameError(registry, name, _added[registry])
    del _added[registry][name]


def _insert(registry: str, item: Named) -> None:
    name = item.name
    _check_name(registry, name)
    if name in _added[registry]:
        raise InputError(f"{registry} {name!r} is already registered: {_added[registry][name]!r}")
    _added[registry][name] = item


def _check_name(registry: str, name: str) -> None:
    # `lora-r4` as a name would give the same id as method `lora` of rank 4.
    if not is_name(name) or (registry == "method" and _RANK_SUFFIX.search(name)):
        raise InputError(
            f"{registry} {name!r} cannot be registered: the name could not be part of a case id: "
            f"{NAME_RULE}"
        )


def _load(registry: str) -> None:
    if registry in _loaded:
        return
    _loaded.add(registry)
    try:
        points = entry_points(group=f"peft_regress.{registry}s")
        loaded = [item for point in points for item in _items_of(registry, point)]
        # By name, so that the order of cases does not depend on the order of installation.
        for item in sorted(loaded, key=lambda item: item.name):
            _insert(registry, item)
    except BaseException:
        # Or the next call would use half a registry.
        _loaded.discard(registry)
        _added[registry].clear()
        raise


def _items_of(registry: str, point: EntryPoint) -> tuple[Named, ...]:
    """Return the items of an entry point: one of its name, or a table.

    Raises `InputError` for anything else, which is another package's mistake.
    """
    item = _load_point(point)
    items = item if isinstance(item, tuple) else (item,)
    for one in items:
        name = getattr(one, "name", None)
        if not isinstance(name, str):
            msg = f"entry point {point.value!r}: {one!r:.100} is no {registry}, which has a name"
            raise InputError(printable(msg))
        if items is not item and name != point.name:
            names = f"has the name {point.name!r}, its {registry} {name!r}"
            msg = f"entry point {point.value!r} {names}"
            raise InputError(printable(msg))
    return items


def _find(registry: str, name: str) -> Any:
    families = _families(registry)
    for title, family in families.items():
        item = family.find(name)
        if item is None:
            continue
        if item.name != name:
            raise InputError(f"the {registry} family {title!r} returned {item.name!r} for {name!r}")
        _check_name(registry, name)
        return item
    unlisted = {title: family.names() for title, family in families.items()}
    raise UnknownNameError(registry, name, _added[registry], unlisted=unlisted)


def _families(registry: str) -> dict[str, Family]:
    """Load the families, in the order of their names: the first that has an item wins."""
    points = entry_points(group=f"peft_regress.{registry}_families")
    return {point.name: _load_point(point) for point in sorted(points, key=lambda p: p.name)}


def _load_point(point: EntryPoint) -> Any:
    """Load the object of an entry point.

    Raises `InputError`, which names the entry point and its distribution, if that does not import.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # the code of another package
        owner = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
        msg = (
            f"entry point {point.name!r} ({point.group}: {point.value}){owner} does not load: "
            f"{told(error)}. Repair that package or uninstall it."
        )
        raise InputError(printable(msg)) from error
