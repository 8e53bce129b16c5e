"""Describe what a case of one's own puts into its training: weights, batches, optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from peft_regress.errors import InputError
from peft_regress.measure.trees import named_tensors
from peft_regress.runs.schema import Inputs, TensorSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn
    from torch.optim import Optimizer


def inputs_of(
    base: nn.Module, train: Iterable[Any], test: Iterable[Any], optimizer: Optimizer
) -> Inputs:
    """Summarize the unadapted model, all batches, and the optimizer's numbers."""
    return Inputs(
        weights=summaries_of(base),
        train=batch_summaries(train),
        test=batch_summaries(test),
        optimizer=[_numbers(group) for group in optimizer.param_groups],
    )


def summaries_of(model: nn.Module) -> dict[str, TensorSummary]:
    """Return each parameter and buffer of a model, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: _summary([tensor]) for name, tensor in named}


def batch_summaries(batches: Iterable[Any]) -> dict[str, TensorSummary]:
    """Return the tensors of batches, all of one path together."""
    found: dict[str, _Sums] = {}
    for batch in batches:
        for path, tensor in named_tensors(batch):
            found.setdefault(path, _Sums(tensor)).add(tensor)
    return {path: sums.summary() for path, sums in found.items()}


def check_same_build(
    one: dict[str, TensorSummary], other: dict[str, TensorSummary], *, what: str
) -> None:
    """Raise `InputError` if two builds under one seed differ, by the name of the first tensor."""
    for name in [*one, *other.keys() - one.keys()]:
        if one.get(name) != other.get(name):
            msg = (
                f"{what} twice under one seed gave two different results, first in {name!r}. Draw "
                "random numbers from torch's, numpy's or random's global generator, which are "
                "seeded before"
            )
            raise InputError(msg)


class _Sums:
    """Sums over tensors of one name."""

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


def _summary(tensors: list[Tensor]) -> TensorSummary:
    sums = _Sums(tensors[0])
    for tensor in tensors:
        sums.add(tensor)
    return sums.summary()


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a parameter group; of a tuple each with its position."""
    return dict(_flat("", {name: value for name, value in group.items() if name != "params"}))


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}".removeprefix("."), item)
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _flat(f"{name}.{position}", item)
