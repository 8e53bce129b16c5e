"""Numbers that objects keep: counters, flags and settings which a step may change or depend on.

What is computed may depend on them without an operator that shows it, from some step on. So a
training in which one of them changes is not certified by its first steps.
"""

from __future__ import annotations

import contextlib
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
    Place,
    foreign_functions,
    is_followed,
    is_package_followed,
    places_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_SIMPLE: Final = (bool, int, float, complex, str, bytes, type(None))
_MOST: Final = 300_000
"""Objects that are looked at; a model has thousands."""
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_NOT_FOLLOWED: Final = frozenset({"torch", "builtins", "numpy", "peft_regress", "logging", "enum"})
"""Packages whose classes keep no counters of a training."""
_NO_DATA: Final = (
    types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, property, staticmethod,
    classmethod, types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType,
    types.WrapperDescriptorType, types.GenericAlias, types.UnionType, Logger,
)  # fmt: skip
# An operator keeps where it is dispatched to, from its first call on.
_OPERATORS: Final = (torch._ops.OperatorBase, torch._ops.OpOverloadPacket)  # noqa: SLF001
_PASSED_OVER: Final = (types.ModuleType, types.CodeType, Logger, torch.Size, *_OPERATORS)


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
    roots: Collection[Any], *, beside: Collection[Any] = (), code: Code | None = None
) -> Kept:
    """Return what is reachable from objects by attributes, containers, hooks and closures.

    beside: objects that it does not follow, and should not meet. code: the code that was met, to
    which it adds; what that names is reachable too.

    Raises `TooManyObjectsError` beyond 300,000 objects.
    """
    walk = _Walk(beside, code)
    walk.visit(roots)
    return walk.kept


class Code:
    """Functions and classes that were met, and the places that their code names."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        """Places of what is no code."""
        self._met: dict[int, Any] = {}
        self._named: set[tuple[int, str]] = set()

    def meet(self, code: Any) -> None:
        """Take in a function or a class, with the functions and classes that it names."""
        waiting = [code]
        while waiting:
            code = waiting.pop()
            key = code.__code__ if isinstance(code, types.FunctionType) else code
            if id(key) in self._met:
                continue
            self._met[id(key)] = key
            waiting.extend(self._read(code))

    def _read(self, code: Any) -> Iterator[Any]:
        """Note a function's or class's places; yield other code in them."""
        if isinstance(code, types.FunctionType):
            places = places_of(code) if is_followed(code) else []
        elif code.__module__.partition(".")[0] in _NOT_FOLLOWED:
            yield from foreign_functions(code)
            return
        elif is_package_followed(code.__module__):
            inside = vars(code)
            places = [Place(inside, key) for key in sorted(inside) if not key.startswith("__")]
        else:
            return
        yield from self._of_places(places)

    def _of_places(self, places: Iterable[Place]) -> Iterator[Any]:
        """Note the places of what is no code; yield the code in them."""
        for place in places:
            if isinstance(place.scope, dict):  # of a module, which others name too
                key = (id(place.scope), place.name)
                if key in self._named:
                    continue
                self._named.add(key)
            value = place.value
            if isinstance(value, types.FunctionType | type):  # most of them
                yield value
                if held_by(value):
                    self.places.append(place)
                continue
            for part in _code_in(value):
                yield part
                if held_by(part):
                    self.places.append(place)
            if not isinstance(value, _NO_DATA):
                self.places.append(place)


def _code_in(value: Any) -> list[Any]:
    """Return the functions in a property or another wrapper; a function or class itself."""
    if isinstance(value, property):
        found = [value.fget, value.fset]
    else:
        found = [getattr(value, "__func__", value)]
    return [one for one in found if isinstance(one, types.FunctionType | type)]


def held_by(code: Any) -> list[Any]:
    """Return what a function holds: defaults, attributes, what it closes over."""
    if not isinstance(code, types.FunctionType):
        return []
    held = [code.__defaults__, code.__kwdefaults__, vars(code)]
    for cell in code.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            held.append(cell.cell_contents)
    return [one for one in held if one is not None and not (isinstance(one, dict) and not one)]


class _Walk:
    def __init__(self, beside: Collection[Any], code: Code | None) -> None:
        self.kept = Kept()
        self._numbers = self.kept.numbers
        self._beside = {id(one) for one in beside}
        self._code = code
        self._seen: dict[int, int] = {}
        """By identity the place of each object that was met: which one a name has may count."""
        self._alive: list[Any] = []
        self._waiting: deque[Any] = deque()

    def visit(self, roots: Collection[Any]) -> None:
        self._all(roots)
        for place in self._code.places if self._code is not None else ():
            self._numbers.append(place.name)  # code that is met meanwhile adds places
            self._all([place.value])

    def _all(self, values: Collection[Any]) -> None:
        waiting = self._waiting
        waiting.extend(values)
        while waiting:
            value = waiting.popleft()
            if isinstance(value, _SIMPLE):
                self._numbers.append(value)
            elif id(value) in self._seen:
                self._numbers.append(("again", self._seen[id(value)]))
            else:
                self._seen[id(value)] = len(self._seen)
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
            self._waiting.extend(vars(value).values())
            for hooks in (value._backward_hooks, value._post_accumulate_grad_hooks):  # noqa: SLF001
                self._hooks(hooks or {})
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
                if name in _OF_EVERY_MODULE and "hooks" in name:
                    self._hooks(item)
                else:
                    self._waiting.append(item)
        self._classes_of(module)

    def _hooks(self, hooks: Any) -> None:
        """Note hooks without their keys, which count all hooks of the process."""
        self._numbers.append(len(hooks))
        self._waiting.extend(hooks.values())

    def _function(self, function: types.FunctionType) -> None:
        self._waiting.extend(held_by(function))
        if self._code is not None:
            self._code.meet(function)

    def _class(self, cls: type) -> None:
        if self._code is not None:
            self._code.meet(cls)

    def _object(self, value: Any) -> bool:
        attributes = list(attributes_of(value))
        self._classes_of(value)
        self._numbers.append(type(value).__qualname__)
        for name, item in attributes:
            self._numbers.append(name)
            self._waiting.append(item)
        return bool(attributes)

    def _classes_of(self, value: Any) -> None:
        """Follow the classes of an object that no other one has brought yet."""
        self._waiting.extend(cls for cls in type(value).__mro__ if id(cls) not in self._seen)

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


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds by name, in slots too."""
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
