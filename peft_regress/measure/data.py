"""The training and test data of a fine-tuning, as batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import default_collate

from peft_regress.cost.batches import batch_as, leaves_of, map_batch
from peft_regress.errors import InputError
from peft_regress.imports import calling
from peft_regress.project.fine_tune import FineTune


@dataclass(frozen=True)
class Items:
    """Items of a case, which become a batch by their positions."""

    count: int
    batch: Callable[[Sequence[int] | Tensor], Any]


def tensor_items(tensors: tuple[Tensor, ...] | dict[str, Tensor]) -> Items:
    """Return the rows of tensors of one length, in a tuple or by name; a batch has that form."""

    def batch(chosen: Sequence[int] | Tensor) -> Any:
        rows = torch.as_tensor(chosen)
        return map_batch(tensors, lambda tensor: tensor[rows])

    return Items(len(leaves_of(tensors)[0]), batch)


def _dataset_items(dataset: Any, collate: Callable[[list[Any]], Any], name: str) -> Items:
    """Return the items of a map-style dataset; `name` is what an error calls it."""

    def batch(chosen: Sequence[int] | Tensor) -> Any:
        with calling(f"{name}: an item"):
            items = [dataset[int(position)] for position in chosen]
        with calling(f"{name}: joining items to a batch"):
            return collate(items)

    return Items(len(dataset), batch)


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
        parts = zip(found, ("train", "test"), strict=True)
        train, test = (_items(part, collate, f"{name}: {split}") for part, split in parts)
        if train.count < fine_tune.batch:
            raise InputError(
                f"{name}: train has {train.count} items, but a batch of {fine_tune.batch} needs as "
                "many"
            )
        return cls(train=train, test=test, dtype=dtype)

    def training_batches(self, size: int, *, seed: int) -> Iterator[Any]:
        """Yield full batches without end; each pass over the items has a new order."""
        count = self.train.count
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in torch.split(order[: count - count % size], size):
                yield self._cast(self.train.batch(chosen))

    def test_batches(self, size: int) -> Iterator[Any]:
        """Yield the test items in their order; the last batch may be smaller."""
        for chosen in torch.split(torch.arange(self.test.count), size):
            yield self._cast(self.test.batch(chosen))

    def probe(self, count: int) -> Any:
        """Return the first test items as one batch."""
        return next(self.test_batches(min(count, self.test.count)))

    def _cast(self, batch: Any) -> Any:
        return batch if self.dtype is None else batch_as(self.dtype, batch)


def _items(given: Any, collate: Callable[[list[Any]], Any], name: str) -> Items:
    try:
        if isinstance(given, tuple | list):
            given = tuple(map(torch.as_tensor, given))
        elif isinstance(given, Mapping):
            given = {key: torch.as_tensor(part) for key, part in given.items()}
        are_tensors = isinstance(given, tuple | dict)
        lengths = sorted(set(map(len, leaves_of(given) if are_tensors else [given])))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is no map-style Dataset, and no tuple or mapping of tensors or arrays of one "
            f"length: {error}"
        ) from None
    if len(lengths) > 1:
        raise InputError(f"{name} has parts of unequal lengths: {lengths}")
    if not sum(lengths):
        raise InputError(f"{name} is empty")
    return tensor_items(given) if are_tensors else _dataset_items(given, collate, name)
