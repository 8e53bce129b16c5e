"""Describe what a case of one's own puts into its training: weights, batches, optimizer."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress.cost.batches import named_tensors
from peft_regress.errors import InputError
from peft_regress.runs.schema import MadeWith, TensorSummary, canonical_digest


def summaries_of(model: nn.Module) -> dict[str, TensorSummary]:
    """Return each parameter and buffer of a model, by name."""
    sums = BatchSums()
    sums.add({**dict(model.named_parameters()), **dict(model.named_buffers())})
    return sums.summaries()


def numbers_of(optimizer: Optimizer) -> list[dict[str, float]]:
    """Return the numbers of each parameter group; of a tuple each with its position."""
    return [
        dict(_flat("", {name: value for name, value in group.items() if name != "params"}))
        for group in optimizer.param_groups
    ]


def fingerprint_of(weights: Mapping[str, TensorSummary], probe: Any) -> MadeWith:
    """Return which model and which data an adapter's output is computed with.

    weights: the unadapted model's, as `summaries_of` returns them.
    """
    sums = BatchSums()
    sums.add(probe)
    return MadeWith(
        shapes=canonical_digest({name: one.shape for name, one in weights.items()}),
        weights_norm=math.hypot(*(one.norm for one in weights.values())),
        probe_norm=math.hypot(*(one.norm for one in sums.summaries().values())),
    )


def check_same_build(
    one: dict[str, TensorSummary], other: dict[str, TensorSummary], *, what: str
) -> None:
    """Raise `InputError` if two builds under one seed differ, by the name of the first tensor."""
    for name in [*one, *other.keys() - one.keys()]:
        if one.get(name) != other.get(name):
            raise InputError(
                f"{what} twice under one seed gave two different results, first in {name!r}. Draw "
                "random numbers from torch's, numpy's or random's global generator, which are "
                "seeded before"
            )


class Rates:
    """The learning rate of each parameter group after each step of a training."""

    def __init__(self, optimizer: Optimizer, *, steps: int) -> None:
        """Make room now, so that a training which is watched keeps no more memory for it."""
        self._groups = [group for group in optimizer.param_groups if "lr" in group]
        self._rates = [array("d", bytes(8 * steps)) for _ in self._groups]

    def note(self, step: int) -> None:
        """Note the rates after a step, which counts from 1."""
        for group, rates in zip(self._groups, self._rates, strict=True):
            rates[step - 1] = float(group["lr"])

    def by_group(self) -> list[list[float]]:
        """Return the rates of each group up to their last change; the last one stays."""
        found = []
        for rates in map(list, self._rates):
            last = next((k for k, rate in enumerate(rates) if set(rates[k:]) == {rate}), 0)
            found.append(rates[: last + 1])
        return found


class BatchSums:
    """Sums over the tensors of batches, all of one path together."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, batch: Any) -> None:
        """Add the tensors of a batch."""
        for path, tensor in named_tensors(batch):
            self._sums.setdefault(path, _Sums(tensor)).add(tensor)

    def summaries(self) -> dict[str, TensorSummary]:
        """Return the summaries by path."""
        return {path: sums.summary() for path, sums in self._sums.items()}


class _Sums:
    """Sums over tensors of one path."""

    def __init__(self, first: Tensor) -> None:
        self._shape = list(first.shape)
        self._dtype = str(first.dtype).removeprefix("torch.")
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0

    def add(self, tensor: Tensor) -> None:
        values = tensor.detach()
        if values.is_complex():
            values = torch.view_as_real(values)
        values = values.double()
        values = values[torch.isfinite(values)]  # a causal mask holds infinities
        self._count += values.numel()
        self._sum += float(values.sum())
        self._squares += float(values.square().sum())

    def summary(self) -> TensorSummary:
        mean = self._sum / self._count if self._count else 0.0
        return TensorSummary(
            shape=self._shape, dtype=self._dtype, mean=mean, norm=math.sqrt(self._squares)
        )


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}".removeprefix("."), item)
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _flat(f"{name}.{position}", item)
