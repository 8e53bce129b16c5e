"""The training and test data of a fine-tuning, as batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, default_collate

from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.imports import calling


@dataclass(frozen=True)
class TensorItems:
    """Tensors of one length, in a tuple or by name; a batch has the same form."""

    tensors: tuple[Tensor, ...] | dict[str, Tensor]

    def __len__(self) -> int:
        """Return the length of the tensors."""
        return len(tree_leaves(self.tensors)[0])

    def batch(self, chosen: Sequence[int]) -> Any:
        """Return the rows of these positions."""
        rows = torch.as_tensor(chosen)
        return tree_map(lambda tensor: tensor[rows], self.tensors)


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


Items: TypeAlias = TensorItems | DatasetItems


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and test data, ready to be batched."""

    train: Items
    test: Items
    dtype: torch.dtype | None = None
    """What floating-point tensors of a batch are cast to; None keeps their type."""

    @classmethod
    def of(cls, fine_tune: FineTune, *, dtype: torch.dtype | None = None) -> Self:
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
        if len(train) < fine_tune.batch:
            raise InputError(
                f"{name}: train has {len(train)} items, but a batch of {fine_tune.batch} needs as "
                "many"
            )
        return cls(train=train, test=test, dtype=dtype)

    def training_batches(self, size: int, *, seed: int) -> Iterator[Any]:
        """Yield full batches without end; each pass over the items has a new order."""
        count = len(self.train)
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in torch.split(order[: count - count % size], size):
                yield self._cast(self.train.batch(chosen))  # type: ignore[arg-type]

    def test_batches(self, size: int) -> Iterator[Any]:
        """Yield the test items in their order; the last batch may be smaller."""
        for chosen in torch.split(torch.arange(len(self.test)), size):
            yield self._cast(self.test.batch(chosen))  # type: ignore[arg-type]

    def probe(self, count: int) -> Any:
        """Return the first test items as one batch."""
        return next(self.test_batches(min(count, len(self.test))))

    def _cast(self, batch: Any) -> Any:
        if self.dtype is None:
            return batch

        def cast(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.to(self.dtype) if is_float else leaf

        return tree_map(cast, batch)


def _items(given: Any, collate: Callable[[list[Any]], Any], name: str) -> Items:
    try:
        if isinstance(given, tuple | list):
            given = TensorItems(tuple(map(torch.as_tensor, given)))
        elif isinstance(given, Mapping):
            given = TensorItems({key: torch.as_tensor(part) for key, part in given.items()})
        else:
            given = DatasetItems(given, collate, name)
        parts = tree_leaves(given.tensors) if isinstance(given, TensorItems) else [given]
        lengths = sorted(set(map(len, parts)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is no map-style Dataset, and no tuple or mapping of tensors or arrays of one "
            f"length: {error}"
        ) from None
    if len(lengths) > 1:
        raise InputError(f"{name} has parts of unequal lengths: {lengths}")
    if not sum(lengths):
        raise InputError(f"{name} is empty")
    found: Items = given
    return found
