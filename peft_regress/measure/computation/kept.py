"""Numbers that objects keep: counters, flags and settings which a step may change or depend on.

What is computed may depend on them without an operator that shows it, from some step on. So a
training in which one of them changes is not certified by its first steps.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import random
import re
import types
import warnings
import weakref
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging import Logger
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from peft_regress.measure.computation.contents import bytes_digest
from peft_regress.measure.computation.named import (
    foreign_functions,
    is_followed,
    is_package_followed,
    reached_by,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SIMPLE: Final = (bool, int, float, complex, str, bytes, type(None))
_MOST: Final = 300_000
"""Objects that are looked at; a model has thousands."""
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_NOT_FOLLOWED: Final = frozenset({"torch", "builtins", "numpy", "peft_regress", "logging", "enum"})
"""Packages whose classes keep no counters of a training."""
_PASSED_OVER: Final = (types.ModuleType, types.CodeType, Logger, torch.Size)


class TooManyObjectsError(Exception):
    """There are more objects than anybody should look at."""


@dataclass
class Kept:
    """What is reachable from some objects."""

    numbers: list[Any] = field(default_factory=list)
    """Each number, text, flag and length, in a fixed order."""
    tensors: list[Tensor] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    """Their states; `numbers` has them as well."""
    met: bool = False
    """Whether one of the objects in `beside` was met."""

    @property
    def plain(self) -> list[Any]:
        """Return the numbers without the states of generators."""
        return [number for number in self.numbers if number not in self.generators]


def kept_by(
    roots: Collection[Any], *, beside: Collection[Any] = (), reads_code: bool = True
) -> Kept:
    """Return what is reachable from objects by attributes, containers, hooks and closures.

    beside: objects that it does not follow, and should not meet. reads_code: whether it also
    follows the names in the code of functions and of classes' methods.

    Raises `TooManyObjectsError` beyond 300,000 objects.
    """
    walk = _Walk(beside, reads_code=reads_code)
    walk.visit(roots)
    return walk.kept


class _Walk:
    def __init__(self, beside: Collection[Any], *, reads_code: bool) -> None:
        self.kept = Kept()
        self._numbers = self.kept.numbers
        self._beside = {id(one) for one in beside}
        self._reads_code = reads_code
        self._seen: set[int] = set()
        self._alive: list[Any] = []
        self._waiting: deque[Any] = deque()

    def visit(self, roots: Collection[Any]) -> None:
        waiting = self._waiting
        waiting.extend(roots)
        while waiting:
            value = waiting.popleft()
            if isinstance(value, _SIMPLE):
                self._numbers.append(value)
            elif id(value) not in self._seen:
                self._seen.add(id(value))
                self._alive.append(value)  # or another object might get its address
                self._one(value)
            if len(self._seen) > _MOST:
                raise TooManyObjectsError

    def _one(self, value: Any) -> None:  # noqa: C901, PLR0912  (one branch a kind of object)
        if id(value) in self._beside:
            self.kept.met = True
        elif isinstance(value, Tensor):
            self._numbers.append("a tensor")
            self.kept.tensors.append(value)
            hooks: Any = (value._backward_hooks, value._post_accumulate_grad_hooks)  # noqa: SLF001
            self._waiting.extend((*vars(value).values(), *hooks))
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, dict):
            # What it holds, not what a lazy one would load.
            self._numbers.append(dict.__len__(value))
            for item in list(dict.items(value)):
                self._waiting.extend(item)
        elif isinstance(value, types.MappingProxyType):
            self._waiting.append(dict(value))
        elif isinstance(value, list | tuple | deque) and not isinstance(value, _PASSED_OVER):
            self._numbers.append(len(value))
            self._waiting.extend(value)
        elif isinstance(value, set | frozenset):
            self._numbers.append(len(value))
            self._waiting.extend(sorted(value, key=repr))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, _PASSED_OVER):
            pass
        elif (state := generator_state(value)) is not None:
            self._numbers.append(state)
            self.kept.generators.append(state)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._waiting.extend((value.__self__, value.__func__))
        elif isinstance(value, functools.partial):
            self._waiting.extend((value.func, value.args, value.keywords))
        elif isinstance(value, property):
            self._waiting.extend((value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod):
            self._waiting.append(value.__func__)
        elif isinstance(value, weakref.ref):
            self._waiting.append(value())
        elif isinstance(value, ContextVar):
            self._waiting.append(value.get(None))
        elif inspect.isgenerator(value):
            self._numbers.append(value.gi_frame and value.gi_frame.f_lasti)
            self._waiting.append(value.gi_frame and dict(value.gi_frame.f_locals))
        elif not self._object(value):
            self._opaque(value)

    def _module(self, module: nn.Module) -> None:
        """Note a module without what each has, while it is empty, and without its mode."""
        self._numbers.append(type(module).__qualname__)
        for name, item in list(vars(module).items()):
            if name not in _OF_EVERY_MODULE or (item and name != "training"):
                self._numbers.append(name)
                self._waiting.append(item)
        self._waiting.extend(type(module).__mro__)

    def _function(self, function: types.FunctionType) -> None:
        self._waiting.extend((function.__defaults__, function.__kwdefaults__, vars(function)))
        for cell in function.__closure__ or ():
            try:
                self._waiting.append(cell.cell_contents)
            except ValueError:
                continue  # not filled yet
        if not (self._reads_code and is_followed(function)):
            return
        for name, value in reached_by(function):
            if isinstance(value, _SIMPLE):
                self._numbers.append((name, value))
            elif "." not in name or isinstance(value, types.FunctionType | type):
                self._waiting.append(value)
            elif type(value).__module__.partition(".")[0] not in _NOT_FOLLOWED - {"numpy"} or (
                isinstance(value, list | dict | set | bytearray)
            ):
                self._waiting.append(value)

    def _class(self, cls: type) -> None:
        if not self._reads_code:
            return
        if cls.__module__.partition(".")[0] in _NOT_FOLLOWED:
            self._waiting.extend(foreign_functions(cls))
        elif is_package_followed(cls.__module__):
            for key, value in sorted(vars(cls).items()):
                if not isinstance(value, _SIMPLE):
                    self._waiting.append(value)
                elif not key.startswith("__"):
                    self._numbers.append((cls.__qualname__, key, value))

    def _object(self, value: Any) -> bool:
        attributes = list(_attributes(value))
        self._waiting.extend(type(value).__mro__)
        for name, item in attributes:
            self._numbers.append(name)
            self._waiting.append(item)
        return bool(attributes)

    def _opaque(self, value: Any) -> None:
        """Note what an iterator, an array or another object of C code has or says of itself."""
        if type(value).__module__ in {"itertools", "builtins"} and hasattr(value, "__next__"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # later versions of Python warn
                self._waiting.append(value.__reduce__())
            return
        try:
            self._numbers.append(hashlib.sha256(memoryview(value).tobytes()).hexdigest())
        except (TypeError, ValueError, BufferError, NotImplementedError):
            self._numbers.append(_ADDRESS.sub("", repr(value)))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                yield name, getattr(value, name)


def generator_state(value: Any) -> str | None:
    """Return the state of a random generator; None for another object."""
    if isinstance(value, torch.Generator):
        return bytes_digest(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if isinstance(value, random.Random):
        return repr(value.getstate())
    return None


def drawn_outside_torch() -> str:
    """Return the states of the global generators of numpy and of `random`."""
    states = (np.random.get_state(legacy=False), random.getstate())  # noqa: NPY002  (models draw)
    return hashlib.sha256(repr(states).encode()).hexdigest()
