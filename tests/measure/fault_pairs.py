"""Pairs of small fine-tunings that differ by one fault: what they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_training import fine_tune
from torch import Tensor, nn

Make = Callable[[bool, pytest.MonkeyPatch], dict[str, Any]]
"""Returns the settings of a fine-tuning, with the fault or without it."""

LATE = 6
"""The step from which a late fault acts, of eight."""


class Faults(dict[str, Make]):
    """Faults by name; calling it adds one."""

    def __call__(self, make: Make) -> Make:
        self[make.__name__.replace("_", " ")] = make
        return make


class Counter:
    """Counts the calls of the training that began last: the optimizer is made right before it."""

    def __init__(self) -> None:
        self.calls = 0

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self.calls = 0
        return adam(model)


class Middle(nn.Module):
    """A layer that runs a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net(*middle: Any, last: Any = None) -> Callable[[], nn.Module]:
    """Return a function that builds two linear layers with others between; each may be a maker."""

    def build() -> nn.Module:
        torch.manual_seed(11)
        layers = [one if isinstance(one, nn.Module) else Middle(one) for one in (m for m in middle)]
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *layers, last or nn.Linear(8, 3))

    return build


def data(seed: int = 3) -> tuple[Any, Any]:
    """Return 24 training and 8 test items of three classes."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return (x[:24], y[:24]), (x[24:], y[24:])


def adam(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """Return AdamW as it is by default, with a higher rate."""
    kept = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(kept, foreach=False, **{"lr": 1e-2, **settings})


def late_by(count: Callable[[], int], *, is_faulty: bool) -> Callable[[Tensor], Tensor]:
    """Return a layer that triples its input from a late call on, where it is faulty."""
    factor = 3.0 if is_faulty else 1.0

    def layer(x: Tensor) -> Tensor:
        return x * (factor if count() >= LATE else 1.0)

    return layer


def in_a_thread(run: Callable[[], None]) -> None:
    """Run in another thread, and wait."""
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def case(**settings: Any) -> Any:
    """Return a fine-tuning of eight steps and two seeds, all of whose parameters train."""
    usual = {"model": net(), "data": data, "optimizer": adam, "steps": 8, "batch": 8, "seeds": 2}
    return fine_tune(settings.pop("adapter", "full"), **{**usual, **settings})
