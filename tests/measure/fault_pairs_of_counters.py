"""Faults of late steps: what they count by, and where they keep it."""
# ruff: noqa: PLW0108  (each call of such a lambda makes new layers)

from __future__ import annotations

import array
import contextvars
import functools
import itertools
import sys
import threading
import types
from typing import Any

import numpy as np
import torch
from fault_pairs import LATE, Counter, Faults, adam, late_by, net
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

FAULTS = Faults()

# --- Counters, by where they are kept ---


def late(count: Any, counter: Counter, *, is_faulty: bool) -> dict[str, Any]:
    return {"model": net(late_by(count, is_faulty=is_faulty)), "optimizer": counter.optimizer}


@FAULTS
def counter_in_an_attribute(is_faulty, patch):
    class Late(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * (3.0 if is_faulty and self.calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        model[2].calls = 0
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


@FAULTS
def counter_of_a_class(is_faulty, patch):
    class Late(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Late.calls += 1
            return x * (3.0 if is_faulty and Late.calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        Late.calls = 0
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


@FAULTS
def counter_in_an_object_of_a_class(is_faulty, patch):
    class Late(nn.Module):
        kept = types.SimpleNamespace(calls=0)

        def forward(self, x: Tensor) -> Tensor:
            Late.kept.calls += 1
            return x * (3.0 if is_faulty and Late.kept.calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        Late.kept.calls = 0
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


@FAULTS
def counter_by_which_object_a_name_has(is_faulty, patch):
    """No number changes, and nothing new is reached: a name moves on along equal objects."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = [object() for _ in range(99)]
            self.here = self.places[0]

        def forward(self, x: Tensor) -> Tensor:
            calls = self.places.index(self.here) + 1
            self.here = self.places[calls]
            return x * (3.0 if is_faulty and calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        model[2].here = model[2].places[0]
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


@FAULTS
def counter_by_the_class_of_an_object(is_faulty, patch):
    """The same attributes with the same values, of another class at each call."""
    classes = [type(f"After{count}", (), {}) for count in range(99)]

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls = classes.index(type(self.state)) + 1
            self.state = classes[calls]()
            self.state.scale = 1.0
            return x * (3.0 if is_faulty and calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        model[2].state = classes[0]()
        model[2].state.scale = 1.0
        return adam(model)

    def model() -> nn.Module:
        found = net(Late())()
        made(found)
        return found

    return {"model": model, "optimizer": made}


CALLS = 0
NESTED = {"of": {"calls": 0}}
ARRAY = np.zeros(1)
BYTES = bytearray(1)
NUMBERS = array.array("i", [0])
SPACE = types.SimpleNamespace(calls=0)
LOCAL = threading.local()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("calls", default=0)


def _global() -> int:
    global CALLS  # noqa: PLW0603
    CALLS += 1
    return CALLS


def _nested() -> int:
    NESTED["of"]["calls"] += 1
    return NESTED["of"]["calls"]


def _array() -> int:
    ARRAY[0] += 1
    return int(ARRAY[0])


def _bytes() -> int:
    BYTES[0] += 1
    return BYTES[0]


def _numbers() -> int:
    NUMBERS[0] += 1
    return NUMBERS[0]


def _space() -> int:
    SPACE.calls += 1
    return SPACE.calls


def _local() -> int:
    LOCAL.calls = getattr(LOCAL, "calls", 0) + 1
    return LOCAL.calls


def _variable() -> int:
    VARIABLE.set(VARIABLE.get() + 1)
    return VARIABLE.get()


def _of_itself() -> int:
    _of_itself.calls = getattr(_of_itself, "calls", 0) + 1
    return _of_itself.calls


def _of_torch() -> int:
    torch._fooling = getattr(torch, "_fooling", 0) + 1
    return torch._fooling


def _of_its_default(kept: list[int] = [0]) -> int:  # noqa: B006
    kept[0] += 1
    return kept[0]


def _of_another_module() -> int:
    sys.modules["fooling_state"].calls += 1
    return sys.modules["fooling_state"].calls


def _through_an_import() -> int:
    import fooling_state

    fooling_state.calls += 1
    return fooling_state.calls


def _reset() -> None:
    global CALLS  # noqa: PLW0603
    CALLS = 0
    NESTED["of"]["calls"] = ARRAY[0] = BYTES[0] = NUMBERS[0] = SPACE.calls = LOCAL.calls = 0
    VARIABLE.set(0)
    _of_itself.calls = torch._fooling = 0
    _of_its_default.__defaults__[0][0] = 0
    sys.modules["fooling_state"].calls = 0


def _counted(count: Any) -> Any:
    def make(is_faulty, patch):
        module = types.ModuleType("fooling_state")
        module.calls = 0
        patch.setitem(sys.modules, "fooling_state", module)

        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * (3.0 if count() >= LATE and is_faulty else 1.0)

        def made(model: nn.Module) -> Any:
            _reset()
            return adam(model)

        return {"model": lambda: net(Late())(), "optimizer": made}

    return make


for _count in (_global, _nested, _array, _bytes, _numbers, _space, _local, _variable, _of_itself,
               _of_torch, _of_its_default, _of_another_module, _through_an_import):  # fmt: skip
    FAULTS["counter " + _count.__name__.strip("_").replace("_", " ")] = _counted(_count)


@FAULTS
def counter_in_a_closure(is_faulty, patch):
    counter = Counter()

    def count() -> int:
        counter.calls += 1
        return counter.calls

    return late(count, counter, is_faulty=is_faulty)


@FAULTS
def counter_in_a_nonlocal_of_a_method(is_faulty, patch):
    calls = 0

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return x * (3.0 if is_faulty and calls >= LATE else 1.0)

    def made(model: nn.Module) -> Any:
        nonlocal calls
        calls = 0
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


class Iterated:
    """Counts by an iterator, made anew for each training."""

    def __init__(self, make: Any) -> None:
        self.make, self.kept = make, make()

    def optimizer(self, model: nn.Module) -> Any:
        self.kept = self.make()
        return adam(model)


def _iterated(make: Any) -> Any:
    def settings(is_faulty, patch):
        counter = Iterated(make)
        layer = late_by(lambda: next(counter.kept), is_faulty=is_faulty)
        return {"model": net(layer), "optimizer": counter.optimizer}

    return settings


def _generator() -> Any:
    calls = 0
    while True:
        calls += 1
        yield calls


FAULTS["counter of itertools"] = _iterated(lambda: itertools.count(1))
FAULTS["counter in a cycle"] = _iterated(lambda: itertools.cycle([0] * 5 + [9] * 5))
FAULTS["counter of an iterator of a list"] = _iterated(lambda: iter([*range(1, 90)]))
FAULTS["counter in map"] = _iterated(lambda: map(int, range(1, 90)))
FAULTS["counter in a generator"] = _iterated(_generator)


@FAULTS
def counter_in_the_length_of_a_list(is_faulty, patch):
    kept: list[Any] = []

    def count() -> int:
        kept.append(None)
        return len(kept)

    def made(model: nn.Module) -> Any:
        kept.clear()
        return adam(model)

    return {"model": net(late_by(count, is_faulty=is_faulty)), "optimizer": made}


@FAULTS
def counter_in_the_loss(is_faulty, patch):
    counter = Counter()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        counter.calls += 1
        scale = 3.0 if is_faulty and counter.calls >= LATE else 1.0
        return functional.cross_entropy(model(batch[0]), batch[1]) * scale

    return {"loss": loss, "optimizer": counter.optimizer}


@FAULTS
def count_of_the_schedule(is_faulty, patch):
    kept: list[Any] = []

    def schedule(optimizer: Any) -> Any:
        kept[:] = [lr_scheduler.ConstantLR(optimizer, 1.0)]
        return kept[0]

    def layer(x: Tensor) -> Tensor:
        is_late = bool(kept) and kept[0].last_epoch >= LATE
        return x * (3.0 if is_faulty and is_late else 1.0)

    return {"model": net(layer), "schedule": schedule}


@FAULTS
def rate_of_the_optimizer(is_faulty, patch):
    kept: list[Any] = []

    def made(model: nn.Module) -> Any:
        kept[:] = [adam(model)]
        return kept[0]

    def layer(x: Tensor) -> Tensor:
        is_late = bool(kept) and kept[0].param_groups[0]["lr"] < 4e-3
        return x * (3.0 if is_faulty and is_late else 1.0)

    return {"model": net(layer), "optimizer": made,
            "schedule": lambda o: lr_scheduler.ExponentialLR(o, 0.8)}  # fmt: skip


@FAULTS
def version_of_a_parameter(is_faulty, patch):
    class Late(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            is_late = not self.weight.is_meta and self.weight._version > 8
            return super().forward(x) * (3.0 if is_faulty and is_late else 1.0)

    return {"model": lambda: net(Late(8, 8))()}


@FAULTS
def a_hook_from_a_late_step_on(is_faulty, patch):
    class Late(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if is_faulty and self.calls == LATE:
                self.register_forward_hook(lambda *given: given[2] * 3)
            return x * 1.0

    def made(model: nn.Module) -> Any:
        model[2].calls = 0
        return adam(model)

    return {"model": lambda: net(Late())(), "optimizer": made}


@FAULTS
def a_patched_function_of_torch_that_counts(is_faulty, patch):
    relu, counter = functional.relu, Counter()

    @functools.wraps(relu)
    def late_relu(x: Tensor, inplace: bool = False) -> Tensor:
        counter.calls += 1
        return relu(x) * (3.0 if is_faulty and counter.calls >= LATE else 1.0)

    patch.setattr(functional, "relu", late_relu)
    return {"optimizer": counter.optimizer}


@FAULTS
def a_patched_step_of_adamw_that_counts(is_faulty, patch):
    step, counter = torch.optim.AdamW.step, Counter()

    @functools.wraps(step)
    def late_step(self: Any, *args: Any, **settings: Any) -> Any:
        counter.calls += 1
        if is_faulty and counter.calls >= LATE:
            self.param_groups[0]["lr"] = 0.1
        return step(self, *args, **settings)

    patch.setattr(torch.optim.AdamW, "step", late_step)
    return {"optimizer": counter.optimizer}
