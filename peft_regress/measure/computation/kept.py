"""Numbers that objects keep: counters, flags and settings which a step may change or depend on.

What is computed may depend on them without an operator that shows it, from some step on. So a
training in which one of them changes is not certified by its first steps.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
import sys
import types
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from peft_regress.measure.computation.contents import bytes_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SIMPLE: Final = (bool, int, float, complex, str, bytes, type(None))
_MOST: Final = 300_000
"""Objects that are looked at; a model has thousands."""
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_NOT_FOLLOWED: Final = ("torch", "builtins", "numpy", "collections", "functools")
"""Packages whose classes and modules keep no counters of a training."""


class TooManyObjectsError(Exception):
    """There are more objects than anybody should look at."""


def kept_numbers(roots: Collection[Any], *, without: Collection[Any] = ()) -> list[Any]:
    """Return each number, text and flag that is reachable from objects, in a fixed order.

    It follows attributes, containers, hooks, closures, generators, class attributes and globals of
    the modules whose classes and functions it meets; of tensors it notes the presence. `without`:
    objects that it does not follow.

    Raises `TooManyObjectsError` beyond 300,000 objects.
    """
    walk = _Walk(without)
    for root in roots:
        walk.visit(root)
    walk.visit_globals()
    return walk.found


class _Walk:
    def __init__(self, without: Collection[Any]) -> None:
        self.found: list[Any] = []
        self._seen = {id(one) for one in without}
        self._alive: list[Any] = []
        self._modules: dict[str, None] = {}
        self._waiting: deque[Any] = deque()

    def visit(self, root: Any) -> None:
        self._waiting.append(root)
        while self._waiting:
            self._one(self._waiting.popleft())
            if len(self._seen) > _MOST:
                raise TooManyObjectsError

    def visit_globals(self) -> None:
        """Note the numbers in the modules of what was met, and in containers right there."""
        for name in sorted(self._modules):
            module = sys.modules.get(name)
            for key, value in sorted(vars(module).items()) if module is not None else ():
                if isinstance(value, _SIMPLE) and not key.startswith("__"):
                    self.found.append((name, key, value))
                elif isinstance(value, list | set | dict | deque):
                    self.found.append((name, key, len(value)))
                    self._simple_items(value)
                elif type(value).__module__ == name:
                    self.visit(value)
                elif type(value).__module__ in {"itertools", "builtins"}:
                    self._opaque(value)

    def _simple_items(self, container: Any) -> None:
        items = container.items() if isinstance(container, dict) else container
        for item in items:
            parts = item if isinstance(item, tuple) else (item,)
            if all(isinstance(part, _SIMPLE) for part in parts):
                self.found.append(item)

    def _one(self, value: Any) -> None:  # noqa: C901, PLR0912  (one branch a kind of object)
        if isinstance(value, _SIMPLE):
            self.found.append(value)
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._alive.append(value)  # or another object might get its address
        if isinstance(value, Tensor):
            self.found.append("a tensor")
            hooks: Any = (value._backward_hooks, value._post_accumulate_grad_hooks)  # noqa: SLF001
            self._waiting.extend((*vars(value).values(), *hooks))
        elif isinstance(value, np.ndarray):
            self.found.append(bytes_digest(torch.from_numpy(np.frombuffer(value.tobytes(), "u1"))))
        elif isinstance(value, Mapping):
            self.found.append(len(value))
            for key, item in list(value.items()):
                self._waiting.append(key)
                self._waiting.append(item)
        elif isinstance(value, list | tuple | deque):
            self.found.append(len(value))
            self._waiting.extend(value)
        elif isinstance(value, set | frozenset):
            self.found.append(len(value))
            self._waiting.extend(sorted(value, key=repr))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.ModuleType):
            pass
        elif (state := generator_state(value)) is not None:
            self.found.append(state)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._waiting.extend((value.__self__, value.__func__))
        elif isinstance(value, functools.partial):
            self._waiting.extend((value.func, value.args, value.keywords))
        elif inspect.isgenerator(value):
            self.found.append(value.gi_frame and value.gi_frame.f_lasti)
            self._waiting.extend((value.gi_frame and dict(value.gi_frame.f_locals)) or ())
        elif not self._object(value):
            self._opaque(value)

    def _function(self, function: types.FunctionType) -> None:
        self._modules[function.__module__ or ""] = None
        self._waiting.extend((function.__defaults__, function.__kwdefaults__, vars(function)))
        for cell in function.__closure__ or ():
            try:
                self._waiting.append(cell.cell_contents)
            except ValueError:
                continue  # not filled yet

    def _class(self, cls: type) -> None:
        package = cls.__module__.partition(".")[0]
        if package in _NOT_FOLLOWED:
            return
        self._modules[cls.__module__] = None
        for key, value in sorted(vars(cls).items()):
            if isinstance(value, _SIMPLE) and not key.startswith("__"):
                self.found.append((cls.__qualname__, key, value))
            elif isinstance(value, list | dict | set | deque) and not key.startswith("__"):
                self._waiting.append(value)

    def _object(self, value: Any) -> bool:
        attributes = list(_attributes(value))
        for cls in type(value).__mro__:
            self._waiting.append(cls)
        if isinstance(value, torch.nn.Module):
            self.found.append(type(value).__qualname__)
        for name, item in attributes:
            self.found.append(name)
            self._waiting.append(item)
        return bool(attributes)

    def _opaque(self, value: Any) -> None:
        """Note what an iterator or another object of C code says of itself."""
        self.found.append(_ADDRESS.sub("", repr(value)))


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
