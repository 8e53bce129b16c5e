"""The training and test data of a fine-tuning, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, IterableDataset, default_collate

from peft_regress.cost.batches import named_tensors
from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.measure.user_code import calling


class Items(Protocol):
    """The items of one split; a batch is made of some of them."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, chosen: Sequence[int]) -> Any:
        """Return the items of these positions as one batch."""


@dataclass(frozen=True)
class TensorItems:
    """Tensors of one length, in a tuple or by name; a batch has the same form."""

    tensors: tuple[Tensor, ...] | dict[str, Tensor]

    def __len__(self) -> int:
        """Return the length of the tensors."""
        every = self.tensors.values() if isinstance(self.tensors, dict) else self.tensors
        return len(next(iter(every)))

    def batch(self, chosen: Sequence[int]) -> Any:
        """Return the rows of these positions."""
        rows = torch.as_tensor(chosen)
        if isinstance(self.tensors, dict):
            return {name: tensor[rows] for name, tensor in self.tensors.items()}
        return tuple(tensor[rows] for tensor in self.tensors)


@dataclass(frozen=True)
class DatasetItems:
    """A map-style dataset, with the function that joins its items to a batch."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    name: str = "the dataset"
    """What an error calls it."""

    def __len__(self) -> int:
        """Return the length of the dataset."""
        return len(self.dataset)  # type: ignore[arg-type]  # checked by `_items`

    def batch(self, chosen: Sequence[int]) -> Any:
        """Return the items of these positions, joined."""
        with calling(f"{self.name}: an item"):
            items = [self.dataset[int(position)] for position in chosen]
        with calling(f"{self.name}: joining items to a batch"):
            return self.collate(items)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and test data, ready to be batched."""

    train: Items
    test: Items
    dtype: torch.dtype | None = None
    """What floating-point tensors of a batch are cast to; None keeps their type."""
    name: str = "data"
    """What an error calls it."""

    @classmethod
    def of(cls, fine_tune: FineTune, *, dtype: torch.dtype | None = None) -> Data:
        """Call the data function of a fine-tuning, and check what it returns.

        Raises `InputError` for data that no training can use; passes on what the function raises.
        """
        name = f"FineTune {fine_tune.id!r}: data()"
        found: object = fine_tune.data()
        if not (isinstance(found, tuple | list) and len(found) == 2):  # noqa: PLR2004
            raise InputError(f"{name} returned a {type(found).__name__}, not a pair (train, test)")
        collate = fine_tune.collate or default_collate
        train, test = (
            _items(part, collate, f"{name}: {split}")
            for part, split in zip(found, ("train", "test"), strict=True)
        )
        return cls(train=train, test=test, dtype=dtype, name=name)

    def training_batches(self, size: int, *, seed: int) -> Iterator[Any]:
        """Yield full batches without end; each pass over the items has a new order.

        Raises `InputError` if there are fewer items than that.
        """
        count = len(self.train)
        if count < size:
            raise InputError(
                f"{self.name}: train has {count} items, but a batch of {size} needs as many"
            )
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in torch.split(order[: count - count % size], size):
                yield self._ready(self.train.batch(chosen), "train")  # type: ignore[arg-type]

    def test_batches(self, size: int) -> Iterator[Any]:
        """Yield the test items in their order; the last batch may be smaller."""
        for chosen in torch.split(torch.arange(len(self.test)), size):
            yield self._ready(self.test.batch(chosen), "test")  # type: ignore[arg-type]

    def probe(self, count: int) -> Any:
        """Return the first test items as one batch."""
        return next(self.test_batches(min(count, len(self.test))))

    def _ready(self, batch: Any, split: str) -> Any:
        for path, tensor in named_tensors(batch):
            if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
                raise InputError(f"{self.name}: {split} has NaN in {path or 'its batches'}")
        if self.dtype is None:
            return batch

        def cast(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.to(self.dtype) if is_float else leaf

        return tree_map(cast, batch)


def _items(given: Any, collate: Callable[[list[Any]], Any], name: str) -> Items:
    if isinstance(given, IterableDataset):
        raise InputError(
            f"{name} is an IterableDataset, whose order no seed sets: give a map-style Dataset"
        )
    found: Items
    if isinstance(given, str | bytes):
        raise InputError(
            f"{name} is a text: read the data, and give tensors or arrays of one length"
        )
    if isinstance(given, tuple | list):
        found = TensorItems(tuple(_tensor(part, name) for part in given))
    elif isinstance(given, Mapping):
        found = TensorItems({key: _tensor(part, name) for key, part in given.items()})
    elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        found = DatasetItems(given, collate, name)
    else:
        raise InputError(
            f"{name} is a {type(given).__name__}: give a Dataset, or a tuple or mapping of tensors "
            "or arrays of one length"
        )
    if isinstance(found, TensorItems):
        _check_lengths(found, name)
    if len(found) == 0:
        raise InputError(f"{name} is empty")
    return found


def _check_lengths(items: TensorItems, name: str) -> None:
    tensors = items.tensors
    named = tensors if isinstance(tensors, dict) else dict(enumerate(tensors))
    if not named:
        raise InputError(f"{name} is empty")
    lengths = {key: len(tensor) for key, tensor in named.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
        raise InputError(f"{name} has parts of unequal lengths: {told}")


def _tensor(part: Any, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} has a {type(part).__name__} that is no tensor or array: {error}"
        ) from None
    if tensor.ndim == 0:
        raise InputError(
            f"{name} has a single number, {part!r}: give tensors or arrays of one length"
        )
    return tensor
