"""What the code of a function can reach by name: globals, and attributes of modules."""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
import typing_extensions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_PACKAGES: Final = (
    *(
        str(Path(package.__file__).parent) + "/"
        for package in (torch, np, sys.modules["peft_regress"])
        if package.__file__
    ),
    str(typing_extensions.__file__),
)
_STANDARD: Final = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
_IO: Final = frozenset(
    {"huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "h11", "filelock", "fsspec",
     "yaml", "tqdm", "packaging", "psutil", "requests", "urllib3", "safetensors", "logging",
     "dask", "distributed", "tornado"}
)  # fmt: skip
"""Packages that move files about, and take no part in a step.

`distributed` is Dask's: code that names `torch.distributed` would lead there where it is imported.
"""


@functools.cache
def is_of_torch(file: str) -> bool:
    """Return whether code of a file is torch's, numpy's, Python's or this package's."""
    if file.startswith("<frozen"):
        return True
    is_standard = file.startswith(_STANDARD) and "-packages" not in file
    return file.startswith(_PACKAGES) or is_standard


def is_followed(function: types.FunctionType) -> bool:
    """Return whether a function's code may keep or decide something that torch does not show.

    By its file, since a function that wraps one of torch's takes over its module's name.
    """
    return not is_of_torch(function.__code__.co_filename) and is_package_followed(
        function.__module__
    )


def is_package_followed(module: str | None) -> bool:
    """Return whether a package may take part in a step."""
    package = (module or "").partition(".")[0]
    return package not in _IO and package not in sys.stdlib_module_names


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


class Place(NamedTuple):
    """A name in a module or class, whose value may be another one later."""

    scope: Mapping[str, Any]
    name: str

    @property
    def value(self) -> Any:
        """Return what the name stands for now."""
        return self.scope.get(self.name)


_PLACES: Final[dict[int, tuple[types.CodeType, list[Place]]]] = {}
"""What the code of functions names that stay as long as their modules."""


def places_of(function: types.FunctionType) -> list[Place]:
    """Return what a function's code names: globals, modules it imports, and their attributes."""
    code = function.__code__
    known = _PLACES.get(id(code))
    if known is not None:
        return known[1]
    places = list(_named_by(function))
    if "<locals>" not in code.co_qualname:
        _PLACES[id(code)] = code, places
    return places


def _named_by(function: types.FunctionType) -> Iterator[Place]:
    scope = function.__globals__
    names = _names_in(function.__code__)
    for name in names:
        place = Place(scope, name)
        if name not in scope:
            package = scope.get("__package__")
            imported = next((n for n in (name, f"{package}.{name}") if n in sys.modules), None)
            if imported is None:
                continue
            place = Place(sys.modules, imported)
        yield place
        module = place.value
        if isinstance(module, types.ModuleType) and is_package_followed(module.__name__):
            yield from _inside(module, names, {id(module)})


def _inside(module: types.ModuleType, names: Iterable[str], seen: set[int]) -> Iterator[Place]:
    """Yield what names stand for in a module, and in the modules in it: `package.module.name`."""
    scope = vars(module)
    for name in names:
        if name not in scope:
            continue
        yield Place(scope, name)
        part = scope[name]
        if isinstance(part, types.ModuleType) and id(part) not in seen and _is_foreign(part):
            seen.add(id(part))
            yield from _inside(part, names, seen)


def _is_foreign(module: types.ModuleType) -> bool:
    package = module.__name__.partition(".")[0]
    return package not in {"torch", "numpy", "peft_regress"} and is_package_followed(package)


def _names_in(code: types.CodeType) -> dict[str, None]:
    names: dict[str, None] = {}
    for one in codes_of(code):
        names.update(dict.fromkeys(one.co_names))
        for text in one.co_consts:
            if isinstance(text, str) and text in sys.modules and text != "torch":
                names[text] = None  # a module may be named by a text
    return names


def foreign_functions(owner: Any) -> Iterator[types.FunctionType]:
    """Yield the functions in a class or module of torch that torch did not write."""
    for value in list(vars(owner).values()):
        function = getattr(value, "__func__", value)
        while isinstance(function, types.FunctionType):
            if is_followed(function):
                yield function
                break
            function = getattr(function, "__wrapped__", None)
