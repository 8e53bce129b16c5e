"""Describe what goes into a training: weights, batches, rates, and what the optimizer does."""

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from msgspec import UNSET
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress.cost.batches import named_tensors
from peft_regress.measure.training import seed_all
from peft_regress.runs.schema import MadeWith, TensorSummary, canonical_digest

_NUMBERS_AT_ONCE: Final = 2**20
"""Copies of a whole embedding in float64 would be the most memory that a script ever has."""
_MOST_ROWS: Final = 64


def summaries_of(model: nn.Module) -> dict[str, TensorSummary]:
    """Return each parameter and buffer of a model, by name."""
    sums = BatchSums()
    sums.add({**dict(model.named_parameters()), **dict(model.named_buffers())})
    return sums.summaries()


def alters(model: nn.Module, weights: Mapping[str, TensorSummary]) -> bool:
    """Return whether an adapted model has frozen parameters in place of its base's `weights`.

    Wrapping renames, so they are told by their numbers. A part that trains may be another one.
    """
    found = summaries_of(model)
    kept = {(one.mean, one.norm) for one in found.values()}
    lost = [one.shape for one in weights.values() if (one.mean, one.norm) not in kept]
    ours = {(one.mean, one.norm) for one in weights.values()}
    frozen = (found[name] for name, p in model.named_parameters() if not p.requires_grad)
    return any(one.shape in lost and (one.mean, one.norm) not in ours for one in frozen)


def numbers_of(optimizer: Optimizer) -> list[dict[str, float]]:
    """Return the numbers of each parameter group; of a tuple each with its position."""
    return [
        dict(_flat("", {name: value for name, value in group.items() if name != "params"}))
        for group in optimizer.param_groups
    ]


def fingerprint_of(weights: Mapping[str, TensorSummary], probe: Any) -> MadeWith:
    """Return the model, by its `summaries_of`, and the data that an output is computed with."""
    sums = BatchSums()
    sums.add(probe)
    return MadeWith(
        shapes=canonical_digest({name: one.shape for name, one in weights.items()}),
        weights_norm=math.hypot(*(one.norm for one in weights.values())),
        probe_norm=math.hypot(*(one.norm for one in sums.summaries().values())),
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
    """Sums over the tensors of batches, by path. rows: whether to tell those of the first apart."""

    def __init__(self, *, rows: bool = False) -> None:
        self._rows = rows
        self._sums: dict[str, _Sums] = {}

    def add(self, batch: Any) -> None:
        """Add the tensors of a batch."""
        for path, tensor in named_tensors(batch):
            self._sums.setdefault(path, _Sums(tensor, rows=self._rows)).add(tensor)

    def summaries(self) -> dict[str, TensorSummary]:
        """Return the summaries by path."""
        return {path: sums.summary() for path, sums in self._sums.items()}


class _Sums:
    def __init__(self, first: Tensor, *, rows: bool) -> None:
        self._shape = list(first.shape)
        self._rows = _projected(first.detach()) if rows and first.dim() else UNSET
        self._dtype = str(first.dtype).removeprefix("torch.")
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0

    def add(self, tensor: Tensor) -> None:
        values = tensor.detach()
        if values.is_quantized:
            values = values.dequantize()
        if values.is_complex():
            values = torch.view_as_real(values)
        for part in torch.split(values.reshape(-1), _NUMBERS_AT_ONCE):
            numbers = part.double()
            numbers = numbers[torch.isfinite(numbers)]  # a causal mask holds infinities
            self._count += numbers.numel()
            self._sum += float(numbers.sum())
            self._squares += float(numbers.square().sum())

    def summary(self) -> TensorSummary:
        mean = self._sum / self._count if self._count else 0.0
        norm = math.sqrt(self._squares)
        return TensorSummary(
            shape=self._shape, dtype=self._dtype, mean=mean, norm=norm, rows=self._rows
        )


def _projected(batch: Tensor) -> list[float]:
    """Return each row's product with a fixed vector, which shows a permutation inside it."""
    if batch.is_complex():
        batch = torch.view_as_real(batch)
    rows = batch[:_MOST_ROWS].flatten(start_dim=1) if batch.dim() > 1 else batch[:_MOST_ROWS, None]
    vector = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=batch.device).sin_()
    products = (row.nan_to_num(0.0, 0.0, 0.0).double() @ vector for row in rows)
    return [float(f"{float(one):.7g}") for one in products]


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}".removeprefix("."), item)
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _flat(f"{name}.{position}", item)


# --- What an optimizer does -----------------------------------------------------------------------

_SHAPES: Final = ((32,), (32, 16), (16, 8, 2, 2))
"""A vector, a tall matrix, and a convolution that is a wide one: GaLore projects either side."""
_SIDES: Final = (32, 16)
_WEIGHT: Final = 1e-3
"""Of each element at the start: near an update, so that rounding of the sum stays small."""

_USUAL_GAP: Final = 15
_LONGEST_GAP: Final = 200


def optimizer_updates(
    make_optimizer: Callable[[nn.Module], Optimizer], *, dtype: torch.dtype, device: torch.device
) -> list[list[float]] | None:
    """Return the norms of updates, to see what an optimizer does when it renews its state.

    A fine-tune is too short for what an optimizer does late, such as GaLore's refresh at step 16 of
    22, where the learning rate is nearly zero. So the optimizer is also run by itself, at its full
    rate.

    An optimizer may project gradients by singular vectors, whose signs are a library's choice. The
    moments in the old projection meet gradients in the new one, and their sum would depend on those
    signs. It does not with the gradients here: before and after the refresh, the rows of the
    projected gradient are orthogonal, and all elements of a row are of one size, so that the mixed
    term of the update's norm is zero for any signs.

    One list for each tensor: of the first two updates, of the last before the refresh, and of the
    two from it on; each relative to the norm of the weights at the start. The gap between refreshes
    is the optimizer's `update_proj_gap`. None if the optimizer cannot be made for three tensors by
    themselves, or does not train all of them.
    """
    seed_all(0)
    weights = (torch.full(shape, _WEIGHT, dtype=dtype, device=device) for shape in _SHAPES)
    model = nn.ParameterList(weights)
    try:
        optimizer = make_optimizer(model)
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        if not held.issuperset(map(id, model)):
            return None  # it chose parameters by names that these do not have
        # The steps between two refreshes; if there are none, or too many, the usual.
        gaps = [group.get("update_proj_gap") for group in optimizer.param_groups]
        known = [gap for gap in gaps if isinstance(gap, int) and 1 < gap <= _LONGEST_GAP]
        gap = max(known, default=_USUAL_GAP)
        updates = [_updated(model, optimizer, step, gap) for step in range(gap + 2)]
    except Exception:  # noqa: BLE001  (it was written for another model)
        return None
    kept = (0, 1, gap - 1, gap, gap + 1)
    return [[updates[step][tensor] for step in kept] for tensor in range(len(_SHAPES))]


def _updated(model: nn.ParameterList, optimizer: Optimizer, step: int, gap: int) -> list[float]:
    before = [parameter.detach().double() for parameter in model]
    for parameter in model:
        gradient = _gradient(tuple(parameter.shape), step, gap)
        parameter.grad = gradient.to(parameter.dtype).to(parameter.device)
    optimizer.step()
    pairs = zip((parameter.detach().double() for parameter in model), before, strict=True)
    return [(now - was).norm().item() / (_WEIGHT * math.sqrt(was.numel())) for now, was in pairs]


def _gradient(shape: tuple[int, ...], step: int, gap: int) -> Tensor:
    """Return the gradient at a step (from 0): others from the refresh on, of sizes that vary.

    Of more than one dimension it has 16 singular values, from 1 to 0.5 of the step's size. It is
    equal to the last bit on every machine: of an element that should be zero, AdamW would make a
    full step in the direction of its rounding.
    """
    long, short = (_walsh(size).double() for size in _SIDES)
    size = 1 + step % 3 / 4
    is_new = step >= gap
    if len(shape) == 1:
        return size * long[int(is_new)]
    values = torch.linspace(1, 0.5, len(short), dtype=torch.float64)
    # Other long vectors than before, and the short ones for other singular values.
    left = long[len(short) :] if is_new else long[: len(short)]
    right = short.roll(5, dims=0) if is_new else short
    tall = (size * left.T @ torch.diag(values) @ right).round(decimals=9)
    return tall if shape[0] == _SIDES[0] else tall.T.reshape(shape)


def _walsh(size: int) -> Tensor:
    """Return orthogonal rows of one length, all elements of one size; `size` is a power of two."""
    rows = torch.ones(1, 1)
    while len(rows) < size:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / math.sqrt(size)
