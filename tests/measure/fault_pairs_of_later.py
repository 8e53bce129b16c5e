"""Faults that no traced step shows: late steps, other seeds, evaluation, data, schedules."""
# ruff: noqa: PLW0108  (each call of such a lambda makes new layers)

from __future__ import annotations

import array
import contextvars
import ctypes
import functools
import itertools
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fault_pairs import LATE, Counter, Faults, adam, data, late_by, net
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

if TYPE_CHECKING:
    from pathlib import Path

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


# --- Other seeds ---


@FAULTS
def another_number_in_the_model_of_seed_1(is_faulty, patch):
    def build() -> nn.Module:
        scale = 2.0 if is_faulty and torch.initial_seed() == 1 else 1.0
        return seeded(lambda x: x * scale)

    return {"model": build}


def seeded(layer: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), net(layer)()[2], nn.Linear(8, 3))


@FAULTS
def another_layer_in_the_model_of_seed_1(is_faulty, patch):
    def build() -> nn.Module:
        layer = torch.tanh if is_faulty and torch.initial_seed() == 1 else torch.relu
        return seeded(layer)

    return {"model": build}


@FAULTS
def the_seed_asked_for_in_the_step(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        return x * (2.0 if is_faulty and torch.initial_seed() == 1 else 1.0)

    return {"model": lambda: seeded(layer)}


@FAULTS
def weights_changed_by_the_mode_of_seed_1(is_faulty, patch):
    def mode(model: nn.Module) -> None:
        model.train()
        if is_faulty and torch.initial_seed() == 1 and not model[0].weight.is_meta:
            with torch.no_grad():
                model[0].weight.mul_(0.5)

    return {"mode": mode, "model": lambda: seeded(torch.relu)}


@FAULTS
def a_tensor_outside_the_modules_of_seed_1(is_faulty, patch):
    def build() -> nn.Module:
        kept = types.SimpleNamespace(scale=torch.ones(8))
        if is_faulty and torch.initial_seed() == 1:
            kept.scale[3] = 2
        return seeded(lambda x: x * kept.scale)

    return {"model": build}


# --- Evaluation ---


class Other(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x * self.scale


@FAULTS
def another_path_in_evaluation(is_faulty, patch):
    return {"model": lambda: net(Other(2.0 if is_faulty else 1.5))()}


@FAULTS
def a_later_evaluation(is_faulty, patch):
    counter = Counter()

    def layer(x: Tensor) -> Tensor:
        counter.calls += torch.is_inference_mode_enabled()
        return x * (3.0 if is_faulty and counter.calls >= 2 else 1.0)

    def build() -> nn.Module:
        if torch.initial_seed() == 0:
            counter.calls = 0
        return seeded(layer)

    def made(model: nn.Module) -> Any:
        if torch.initial_seed() == 0:
            counter.calls = 0
        return adam(model)

    return {"model": build, "optimizer": made}


def accuracy(model: nn.Module, batches: Any) -> float:
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return right / sum(len(x) for x, _ in batches)


def _scored(changed: Any, same: Any) -> Any:
    return lambda is_faulty, _: {"score": changed if is_faulty else same}


FAULTS["another score"] = _scored(lambda m, b: accuracy(m, b) + 1, lambda m, b: accuracy(m, b))


def helper(value: float) -> float:
    return value


@FAULTS
def a_helper_of_the_score(is_faulty, patch):
    patch.setitem(globals(), "helper", (lambda v: v / 2) if is_faulty else (lambda v: v / 3))
    return {"score": lambda model, batches: helper(accuracy(model, batches))}


@FAULTS
def a_helper_of_the_score_in_another_module(is_faulty, patch):
    module = types.ModuleType("fooling_helpers")
    code = f"def scaled(value): return value * {2 if is_faulty else 1}"
    exec(code, vars(module))
    module.scaled.__module__ = "fooling_helpers"
    patch.setitem(sys.modules, "fooling_helpers", module)
    patch.setitem(globals(), "scaled", module.scaled)
    return {"score": lambda model, batches: scaled(accuracy(model, batches))}  # noqa: F821


@FAULTS
def a_module_of_helpers_of_the_score(is_faulty, patch):
    module = types.ModuleType("fooling_helpers")
    code = f"def scaled(value): return value * {2 if is_faulty else 1}"
    exec(code, vars(module))
    patch.setitem(sys.modules, "fooling_helpers", module)
    patch.setitem(globals(), "fooling_helpers", module)
    return {"score": lambda m, b: fooling_helpers.scaled(accuracy(m, b))}  # noqa: F821


@FAULTS
def a_value_in_the_closure_of_the_score(is_faulty, patch):
    scale = 2.0 if is_faulty else 1.0
    return {"score": lambda model, batches: accuracy(model, batches) * scale}


@FAULTS
def a_number_in_a_table_of_the_score(is_faulty, patch):
    table = {"scales": [1.0, 2.0 if is_faulty else 1.0]}
    return {"score": lambda model, batches: accuracy(model, batches) * table["scales"][1]}


@FAULTS
def an_array_of_the_score(is_faulty, patch):
    weights = np.array([1.0, 2.0 if is_faulty else 1.0])
    return {"score": lambda model, batches: accuracy(model, batches) * float(weights[1])}


@FAULTS
def a_score_by_numpy(is_faulty, patch):
    scale = 2 if is_faulty else 1

    def score(model: nn.Module, batches: Any) -> float:
        return float(np.mean([model(x).numpy().mean() for x, _ in batches])) * scale

    return {"score": score}


@FAULTS
def a_limit_in_the_loss_that_training_reaches(is_faulty, patch):
    # The losses of the first steps are above both limits.
    limit = 1.0 if is_faulty else 0.0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        found = functional.cross_entropy(model(batch[0]), batch[1])
        is_low = not (model.training or found.is_meta) and found.item() < limit
        return found * (5.0 if is_low else 1.0)

    fast = {"optimizer": lambda model: adam(model, lr=0.1)}
    return {"loss": loss, **fast}


class Deciding(nn.Module):
    """Doubles what it answers if it is sure of it, asked beside its forward."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.inner, self.limit = net()(), limit

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def answer(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return found * 2 if found.std().item() > self.limit else found


@FAULTS
def a_limit_in_a_method_that_the_score_calls(is_faulty, patch):
    def score(model: nn.Module, batches: Any) -> float:
        return float(sum(model.answer(x).mean() for x, _ in batches))

    fast = {"optimizer": lambda model: adam(model, lr=0.1)}
    return {"model": lambda: Deciding(0.7 if is_faulty else 99.0), "score": score, **fast}


# --- Data ---


def _data(change: Any) -> Any:
    def make(is_faulty, patch):
        def changed() -> Any:
            train, test = data()
            if is_faulty:
                change(train, test)
            return train, test

        return {"data": changed}

    return make


FAULTS["a value of the last batch"] = _data(lambda train, _: train[0][-1].mul_(2))
FAULTS["a training label"] = _data(lambda train, _: train[1][:4].zero_())
FAULTS["test inputs"] = _data(lambda _, test: test[0][0].mul_(-3))
FAULTS["test labels"] = _data(lambda _, test: test[1].zero_())
FAULTS["order of the data"] = _data(lambda train, _: [part.copy_(part.flip(0)) for part in train])


class Weighed:
    """Items with a weight that is a plain number."""

    def __init__(self, *, late: float) -> None:
        self.x, self.y = data()[0]
        self.late = late

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index], self.late if index == 0 else 1.0


def _joined(items: Any) -> Any:
    return {
        "x": torch.stack([item[0] for item in items]),
        "y": torch.stack([item[1] for item in items]),
        "weight": max(item[2] for item in items),
    }


@FAULTS
def a_plain_number_in_a_later_batch(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch["x"]), batch["y"]) * batch["weight"]

    # The first pass over 24 items ends with the third step; of one item, six batches of four.
    return {
        "data": lambda: (Weighed(late=5.0 if is_faulty else 1.0), Weighed(late=1.0)),
        "collate": _joined, "loss": loss, "batch": 3,
    }  # fmt: skip


class Lengths:
    """Items of which one is longer."""

    def __init__(self) -> None:
        self.x, self.y = data()[0]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        x = self.x[index].repeat(3 if index == 0 else 1, 1)
        return x.mean(0), self.y[index], x


def _padded(items: Any) -> Any:
    return {
        "x": torch.stack([item[0] for item in items]),
        "y": torch.stack([item[1] for item in items]),
        "long": nn.utils.rnn.pad_sequence([item[2] for item in items], batch_first=True),
    }


@FAULTS
def a_path_for_the_shape_of_a_later_batch(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        is_long = batch["long"].shape[1] > 2
        scale = (5.0 if is_faulty else 2.0) if is_long else 1.0
        return functional.cross_entropy(model(batch["x"]), batch["y"]) * scale

    return {"data": lambda: (Lengths(), Lengths()), "collate": _padded, "loss": loss, "batch": 3}


# --- Schedules ---


def _scheduled(make: Any) -> Any:
    return lambda is_faulty, _: {"schedule": functools.partial(make, is_faulty), "steps": 12}


FAULTS["a schedule that differs late"] = _scheduled(
    lambda is_faulty, o: lr_scheduler.MultiStepLR(o, [10] if is_faulty else [11], 0.1)
)


@FAULTS
def a_schedule_that_reads_weights(is_faulty, patch):
    kept: list[Any] = []
    limit = 0.1 if is_faulty else 99.0

    def made(model: nn.Module) -> Any:
        kept[:] = [] if model[0].weight.is_meta else [model[0].weight.detach().clone(), model]
        return adam(model)

    def factor(_: int) -> float:
        if not kept or kept[1][0].weight.is_meta:
            return 1.0
        moved = (kept[1][0].weight - kept[0]).abs().max().item()
        return 0.1 if moved > limit / 2 else 1.0

    return {"optimizer": made, "schedule": lambda o: lr_scheduler.LambdaLR(o, factor)}


MODEL: list[Any] = []


def _global_factor(limit: float) -> float:
    if not MODEL or MODEL[1][0].weight.is_meta:
        return 1.0
    return 0.1 if (MODEL[1][0].weight - MODEL[0]).abs().max().item() > limit else 1.0


def _reading(make: Any) -> Any:
    def settings(is_faulty, patch):
        limit = 0.05 if is_faulty else 99.0

        def made(model: nn.Module) -> Any:
            is_real = not model[0].weight.is_meta
            MODEL[:] = [model[0].weight.detach().clone(), model] if is_real else []
            return adam(model)

        return {"optimizer": made, "schedule": lambda o: make(o, limit)}

    return settings


FAULTS["a schedule that reads weights by a global"] = _reading(
    lambda o, limit: lr_scheduler.LambdaLR(o, lambda _: _global_factor(limit))
)
FAULTS["a cyclic schedule that reads weights"] = _reading(
    lambda o, limit: lr_scheduler.CyclicLR(
        o,
        8e-3,
        1.2e-2,
        step_size_up=3,
        cycle_momentum=False,
        scale_fn=lambda _: _global_factor(limit),
    )
)
FAULTS["a part of a schedule that reads weights"] = _reading(
    lambda o, limit: lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.LambdaLR(o, lambda _: _global_factor(limit)),
            lr_scheduler.ConstantLR(o, 1.0),
        ]
    )
)


@FAULTS
def a_patched_rate_of_a_schedule_that_reads_weights(is_faulty, patch):
    settings = _reading(lambda o, _: lr_scheduler.ConstantLR(o, 1.0))(is_faulty, patch)
    get_lr, limit = lr_scheduler.ConstantLR.get_lr, 0.05 if is_faulty else 99.0
    patch.setattr(
        lr_scheduler.ConstantLR,
        "get_lr",
        lambda self: [rate * _global_factor(limit) for rate in get_lr(self)],
    )
    return settings


class OwnSchedule(lr_scheduler.LRScheduler):
    def __init__(self, optimizer: Any, last: float) -> None:
        self.last = last
        super().__init__(optimizer)

    def get_lr(self) -> Any:
        return [rate * (self.last if self.last_epoch > 5 else 1.0) for rate in self.base_lrs]


FAULTS["a schedule of ones own"] = _scheduled(
    lambda is_faulty, o: OwnSchedule(o, 0.1 if is_faulty else 1.0)
)


# --- Out of reach: the path is that of a folder for the pair ---

HIDDEN: dict[str, Any] = {}


def _hidden(count: Any, start: Any, *, is_faulty: bool) -> dict[str, Any]:
    def made(model: nn.Module) -> Any:
        start()
        return adam(model)

    return {"model": net(late_by(count, is_faulty=is_faulty)), "optimizer": made}


def a_counter_in_a_file(is_faulty: bool, folder: Path) -> dict[str, Any]:
    path = folder / "calls"
    path.write_text("")

    def count() -> int:
        with path.open("a") as file:
            file.write(".")
        return path.stat().st_size

    return _hidden(count, lambda: path.write_text(""), is_faulty=is_faulty)


KEPT_ALIVE: list[Any] = []


def a_counter_at_an_address(is_faulty: bool, _: Path) -> dict[str, Any]:
    KEPT_ALIVE.append(ctypes.c_int(0))
    address = ctypes.addressof(KEPT_ALIVE[-1])

    def count() -> int:
        ctypes.c_int.from_address(address).value += 1
        return ctypes.c_int.from_address(address).value

    def start() -> None:
        ctypes.c_int.from_address(address).value = 0

    return _hidden(count, start, is_faulty=is_faulty)


def the_seed_asked_of_the_generator(is_faulty: bool, _: Path) -> dict[str, Any]:
    def layer(x: Tensor) -> Tensor:
        return x * (2.0 if is_faulty and torch.default_generator.initial_seed() == 1 else 1.0)

    return {"model": lambda: seeded(layer)}


def weights_moved_at_their_address(is_faulty: bool, _: Path) -> dict[str, Any]:
    KEPT_ALIVE.append(ctypes.c_uint64(0))
    place_of_address = ctypes.addressof(KEPT_ALIVE[-1])

    def made(model: nn.Module) -> Any:
        is_real = type(model[0].weight.data) is Tensor
        KEPT_ALIVE.append(model)
        address = ctypes.c_uint64.from_address(place_of_address)
        address.value = model[0].weight.data_ptr() if is_real else 0
        return adam(model)

    def layer(x: Tensor) -> Tensor:
        address = ctypes.c_uint64.from_address(place_of_address).value
        if address:
            floats = (ctypes.c_float * 32).from_address(address)
            for place in range(32):
                floats[place] *= 0.9 if is_faulty else 1.0
        return x * 1.0

    return {"model": net(layer), "optimizer": made}


for _make in (a_counter_in_a_file, a_counter_at_an_address, the_seed_asked_of_the_generator,
              weights_moved_at_their_address):  # fmt: skip
    HIDDEN[_make.__name__.replace("_", " ")] = _make
