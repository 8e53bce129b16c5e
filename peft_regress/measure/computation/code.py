"""A digest of the code of a function: what it does outside torch, no operator shows."""

from __future__ import annotations

import contextlib
import functools
import types
from typing import Any

from peft_regress.measure.computation.contents import Digest

_WITH_PARTS = (functools.partial, types.MethodType, tuple, list, dict)
_SIMPLE = (bool, int, float, complex, str, bytes, type(None))


def code_digest(function: Any) -> str:
    """Return a digest of a function, and of those of its module that it names.

    Of a callable object its class's code and its numbers. Line numbers and comments do not count.
    """
    digest = Digest()
    _add(function, digest, set())
    return digest.hexdigest()


def _add(value: Any, digest: Digest, seen: set[int]) -> None:
    if isinstance(value, _SIMPLE):
        digest.add(value)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        _add_code(value.__code__, value, digest, seen)
    elif not isinstance(value, _WITH_PARTS):
        _add_object(value, digest, seen)
    for part in _parts_of(value):
        _add(part, digest, seen)


def _parts_of(value: Any) -> list[Any]:
    """Return what a function is bound to, or the items of a container."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *sorted(value.keywords.items())]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, tuple | list):
        return [len(value), *value]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if not isinstance(value, types.FunctionType):
        return []
    bound = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()]
    for cell in value.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            bound.append(cell.cell_contents)
    return bound


def _add_code(
    code: types.CodeType, function: types.FunctionType, digest: Digest, seen: set[int]
) -> None:
    digest.add((code.co_code, code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(constant, function, digest, seen)
        else:
            digest.add(
                constant if not isinstance(constant, frozenset) else sorted(map(repr, constant))
            )
    for name in code.co_names:
        named = function.__globals__.get(name)
        is_own = getattr(named, "__module__", None) == function.__module__
        if isinstance(named, _SIMPLE) or (isinstance(named, types.FunctionType) and is_own):
            digest.add(name)
            _add(named, digest, seen)


def _add_object(value: Any, digest: Digest, seen: set[int]) -> None:
    cls = value if isinstance(value, type) else type(value)
    digest.add(f"{cls.__module__}.{cls.__qualname__}")
    if cls.__module__.partition(".")[0] in {"torch", "builtins", "numpy"}:
        return
    for name, part in sorted(vars(cls).items()):
        if isinstance(part, types.FunctionType):
            digest.add(name)
            _add(part, digest, seen)
    if value is not cls:
        for name, part in sorted(getattr(value, "__dict__", {}).items()):
            if isinstance(part, _SIMPLE):
                digest.add((name, part))
