"""Find methods, architectures and tasks by name, built-in ones and those of other packages.

A package adds its own by an entry point in one of the groups `peft_regress.methods`,
`peft_regress.architectures` and `peft_regress.tasks`; a test suite calls `add` in its conftest.py.
The built-in ones use the same entry points.

A family, from the group `peft_regress.architecture_families`, has items by name that are not
registered one by one, such as every classifier of torchvision: `names()` lists them, and
`find(name)` returns that item or None. It is asked only for names that are not registered; its
items are in no list and belong to no matrix.
"""

import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, get_args

from peft_regress.cases import NAME_RULE, is_name
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.imports import told

RegistryName = Literal["method", "architecture", "task"]


class Named(Protocol):
    """Anything that can be registered."""

    @property
    def name(self) -> str:
        """The name in a case id."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that it belongs to, such as `default` and `extended`."""


_RANK_SUFFIX = re.compile(r"-r[0-9]+$")

_added: dict[str, dict[str, Any]] = {registry: {} for registry in get_args(RegistryName)}
_loaded: set[str] = set()
_found: dict[tuple[str, str], Any] = {}


def add(registry: RegistryName, item: Named) -> None:
    """Register a method, architecture or task, so that cases can name it.

    Raises `InputError` if the name is taken or cannot be part of a case id.
    """
    if registry not in _added:
        raise UnknownNameError("registry", registry, _added)
    _insert(registry, item, _items(registry))


def get(registry: RegistryName, name: str) -> Any:
    """Return the registered item of a name, or else a family's.

    Raises `UnknownNameError` with the registered names and the closest name, also of the families.
    """
    known = _items(registry)
    if name in known:
        return known[name]
    if (registry, name) not in _found:
        families = _points(f"{registry}_families")
        items = (family.find(name) for family in families.values())
        item = next((item for item in items if item is not None), None)
        if item is None:
            unlisted = {title: family.names() for title, family in families.items()}
            raise UnknownNameError(registry, name, known, unlisted=unlisted)
        _found[registry, name] = item
    return _found[registry, name]


def names(registry: RegistryName) -> tuple[str, ...]:
    """List the registered names, in order of registration, without those of families."""
    return tuple(_items(registry))


def items(registry: RegistryName) -> tuple[Any, ...]:
    """List the registered items, in order of registration, without those of families."""
    return tuple(_items(registry).values())


def remove(registry: RegistryName, name: str) -> None:
    """Remove a registration, for tests that must leave no trace. Raises `UnknownNameError`."""
    known = _items(registry)
    if name not in known:
        raise UnknownNameError(registry, name, known)
    del known[name]


def _insert(registry: str, item: Named, known: dict[str, Any]) -> None:
    name = item.name
    # `lora-r4` as a name would give the same id as method `lora` of rank 4.
    if not is_name(name) or (registry == "method" and _RANK_SUFFIX.search(name)):
        raise InputError(
            f"{registry} {name!r} cannot be registered: the name could not be part of a case id: "
            f"{NAME_RULE}"
        )
    if name in known:
        raise InputError(f"{registry} {name!r} is already registered: {known[name]!r}")
    known[name] = item


def _items(registry: str) -> dict[str, Any]:
    known = _added[registry]
    if registry in _loaded:
        return known
    _loaded.add(registry)  # at once: a package may register more while it loads
    try:
        points = _points(f"{registry}s").values()
        groups = (found if isinstance(found, tuple) else (found,) for found in points)
        loaded = [item for group in groups for item in group]
        # By name, so that the order of cases does not depend on the order of installation.
        for item in sorted(loaded, key=lambda item: item.name):
            _insert(registry, item, known)
    except BaseException:
        # Or the next call would use half a registry.
        _loaded.discard(registry)
        known.clear()
        raise
    return known


def _points(group: str) -> dict[str, Any]:
    """Load the objects of a group of entry points, in the order of their names."""
    points = entry_points(group=f"peft_regress.{group}")
    return {point.name: _load(point) for point in sorted(points, key=lambda point: point.name)}


def _load(point: EntryPoint) -> Any:
    """Load the object of an entry point; an `InputError` names it and its distribution."""
    try:
        return point.load()
    except Exception as error:  # the code of another package
        owner = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
        raise InputError(
            f"entry point {point.name!r} ({point.group}: {point.value}){owner} does not load: "
            f"{told(error)}. Repair that package or uninstall it."
        ) from error
