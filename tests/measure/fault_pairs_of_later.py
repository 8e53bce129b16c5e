"""Faults that no traced step shows: other seeds, evaluation, data, schedules."""
# ruff: noqa: PLW0108  (each call of such a lambda makes new layers)

from __future__ import annotations

import ctypes
import functools
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fault_pairs import Counter, Faults, adam, data, late_by, net
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = Faults()

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
