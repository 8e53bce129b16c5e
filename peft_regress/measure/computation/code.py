"""A digest of the code of functions: what it does outside torch, no operator shows."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import platform
import types
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import Tensor, nn

from peft_regress.measure.computation.contents import Digest, bytes_digest
from peft_regress.measure.computation.kept import attributes_of
from peft_regress.measure.computation.named import (
    codes_of,
    is_followed,
    is_of_torch,
    is_package_followed,
    places_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIMPLE: Final = (bool, int, float, complex, str, bytes, type(None))
_MOST: Final = 20_000
_OF_NO_MEANING: Final = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__slotnames__"}
)
"""Attributes of classes; copying an object adds one to its class."""
_ITS_VERSION_TELLS: Final = frozenset({"torch", "numpy"})


class CodeDigest:
    """A digest of functions and of what they name, in other modules too.

    Of a callable object its class's code and its numbers. Line numbers and comments do not count.
    Torch and Python are not read: their versions stand for them.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._digest = Digest()
        self._seen: dict[int, tuple[int, Any]] = {}
        """By identity the place of what was met, and it itself: no other gets its identity."""
        self.codes: set[types.CodeType] = set()
        """The code that is digested."""
        for function in functions:
            self._add(function)
        if self.codes:
            self._digest.add((platform.python_version(), np.__version__))

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out for being too much."""
        return len(self._seen) < _MOST

    def hexdigest(self) -> str:
        """Return the digest."""
        return self._digest.hexdigest()

    def _add(self, value: Any) -> None:
        if isinstance(value, _SIMPLE):
            self._digest.add(value)
        elif isinstance(value, Tensor):
            self._digest.add(bytes_digest(value))
        elif isinstance(value, np.ndarray | np.generic):
            self._digest.add((str(value.dtype), value.shape, value.tobytes()))
        elif id(value) in self._seen:
            self._digest.add(("again", self._seen[id(value)][0]))
        elif self.is_whole:
            self._seen[id(value)] = len(self._seen), value
            self._add_parts(value)

    def _add_parts(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, functools.partial):
            self._each(value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            self._each(value.__func__, value.__self__)
        elif isinstance(value, tuple | list | deque):
            self._each(len(value), *value)
        elif isinstance(value, set | frozenset):
            self._each(len(value), *sorted(value, key=repr))
        elif isinstance(value, dict):
            self._each(len(value), *(part for item in value.items() for part in item))
        elif isinstance(value, property):
            self._each(value.fget)
        elif isinstance(value, staticmethod | classmethod):
            self._add(value.__func__)
        elif isinstance(value, types.ModuleType):
            self._digest.add(value.__name__)
        else:
            self._add_object(value)

    def _each(self, *values: Any) -> None:
        for value in values:
            self._add(value)

    def _add_function(self, function: types.FunctionType) -> None:
        self._digest.add((function.__module__, function.__qualname__))
        if not is_followed(function):
            return
        for code in codes_of(function.__code__):
            self.codes.add(code)
            self._digest.add((code.co_code, code.co_names, code.co_varnames, code.co_freevars))
            for constant in code.co_consts:
                if isinstance(constant, frozenset):
                    self._digest.add(sorted(map(repr, constant)))
                elif not isinstance(constant, types.CodeType):
                    self._digest.add(constant)
        self._each(*(function.__defaults__ or ()), function.__kwdefaults__)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # not filled yet
                self._add(cell.cell_contents)
        for place in places_of(function):
            self._digest.add(place.name)
            self._add(place.value)

    def _add_object(self, value: Any) -> None:
        cls = value if isinstance(value, type) else type(value)
        self._digest.add(f"{cls.__module__}.{cls.__qualname__}")
        if isinstance(value, nn.Module):
            return
        if not _is_of_torch(cls):
            for name, part in sorted(vars(cls).items()):
                if name not in _OF_NO_MEANING:
                    self._digest.add(name)
                    self._add(part)
        if value is not cls and cls.__module__.partition(".")[0] not in _ITS_VERSION_TELLS:
            self._each(*(part for item in attributes_of(value) for part in item))
            if is_package_followed(cls.__module__):
                return
            with contextlib.suppress(Exception):  # what cannot be copied holds no number
                reduce: Any = copyreg.dispatch_table.get(cls)
                self._add(reduce(value) if reduce else value.__reduce_ex__(4))


def _is_of_torch(cls: type) -> bool:
    functions = [one for one in vars(cls).values() if isinstance(one, types.FunctionType)]
    is_written = [is_of_torch(one.__code__.co_filename) for one in functions]
    package = cls.__module__.partition(".")[0]
    return all(is_written) and (package in _ITS_VERSION_TELLS or not is_package_followed(package))
