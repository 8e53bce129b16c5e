"""What the code of a function can reach by name: globals, and attributes of modules."""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import typing_extensions

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES: Final = tuple(
    str(Path(package.__file__).parent) + "/"
    for package in (torch, np, sys.modules["peft_regress"])
    if package.__file__
) + (str(typing_extensions.__file__),)
_STANDARD: Final = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
_IO: Final = frozenset(
    {"huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "h11", "filelock", "fsspec",
     "yaml", "tqdm", "packaging", "requests", "urllib3", "safetensors", "logging"}
)  # fmt: skip
"""Packages that move files about, and take no part in a step."""


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
    return (module or "").partition(".")[0] not in _IO


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def reached_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function's code names: globals, modules it imports, and their attributes."""
    names: dict[str, None] = {}
    for code in codes_of(function.__code__):
        names.update(dict.fromkeys(code.co_names))
        # A module may be named by a text.
        names.update(
            (text, None)
            for text in code.co_consts
            if isinstance(text, str) and "." not in text and text in sys.modules
        )
    scope = function.__globals__
    for name in names:
        value = scope.get(name, _ABSENT)
        if value is _ABSENT:
            value = _imported(name, scope.get("__package__"))
        if value is _ABSENT:
            continue
        yield name, value
        if isinstance(value, types.ModuleType) and is_package_followed(value.__name__):
            inside = vars(value)
            yield from ((f"{name}.{one}", inside[one]) for one in names if one in inside)


_ABSENT: Final = object()


def _imported(name: str, package: str | None) -> Any:
    found = sys.modules.get(name)
    if found is None and package:
        found = sys.modules.get(f"{package}.{name}")
    return _ABSENT if found is None else found


def foreign_functions(owner: Any) -> Iterator[types.FunctionType]:
    """Yield the functions in a class or module of torch that torch did not write."""
    for value in list(vars(owner).values()):
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            while not is_followed(function) and hasattr(function, "__wrapped__"):
                function = function.__wrapped__
                if not isinstance(function, types.FunctionType):
                    break
            if isinstance(function, types.FunctionType) and is_followed(function):
                yield function
