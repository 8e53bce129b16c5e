"""The batch of a step: a tensor, or any tree of tensors, its names and its stand-ins."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from peft_regress.cost.refusals import layout_problem
from peft_regress.cost.storages import has_parts
from peft_regress.errors import InputError


@dataclass(frozen=True)
class RandomTensor:
    """A tensor in a batch that is drawn where the step runs: on fake tensors it takes no memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    """Floating-point values are normal; booleans are either."""
    below: int = 1
    """Whole numbers are from 0 up to this one, exclusive: 0 is an index of every table."""

    def draw(self, device: torch.device) -> Tensor:
        """Return the tensor. Raises `InputError` for a dtype without random values."""
        shape, dtype = tuple(self.shape), self.dtype
        try:
            if dtype.is_floating_point or dtype.is_complex:
                return torch.randn(shape, dtype=dtype, device=device)
            below = 2 if dtype is torch.bool else self.below
            return torch.randint(below, shape, dtype=dtype, device=device)
        except (NotImplementedError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"a batch of {shape} and {dtype} cannot be drawn at random: {said}"
            ) from error


@dataclass(frozen=True)
class Call:
    """A batch that is the arguments of a model: `model(*args, **kwargs)`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def map_batch(batch: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a batch with each tensor, and each `RandomTensor`, replaced by `convert(it)`.

    A batch is such a leaf, or a list, tuple, named tuple, set, queue, mapping or dataclass of
    batches; a mapping of another class, such as transformers' `BatchEncoding`, stays of its class.
    Everything else stays as it is.
    """
    if isinstance(batch, Tensor | RandomTensor):
        return convert(batch)
    if isinstance(batch, Mapping):
        return _map_mapping(batch, convert)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        filled: Any = copy.copy(batch)
        for part in dataclasses.fields(batch):
            value = map_batch(getattr(batch, part.name), convert)
            object.__setattr__(filled, part.name, value)  # a frozen one too
        return filled
    if isinstance(batch, list | tuple | set | frozenset | deque):
        items = [map_batch(item, convert) for item in batch]
        make: Any = getattr(type(batch), "_make", type(batch))  # a named tuple takes items apart
        return make(items)
    return batch


def _map_mapping(batch: Mapping[Any, Any], convert: Callable[[Any], Any]) -> Mapping[Any, Any]:
    items = {key: map_batch(value, convert) for key, value in batch.items()}
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return items
    filled = copy.copy(batch)
    for key, value in items.items():
        filled[key] = value
    return filled


def leaves_of(batch: Any) -> list[Any]:
    """Return the tensors of a batch in its order, each as often as it occurs."""
    found: list[Any] = []
    map_batch(batch, found.append)
    return found


def stand_in_batch(
    batch: Any, convert: Callable[[Tensor], Tensor], draw: Callable[[RandomTensor], Tensor]
) -> tuple[Any, list[Tensor]]:
    """Return the batch on stand-ins, and these.

    A tensor that occurs twice is converted once. Views that leave most of a storage unused, such as
    the first rows of all data, count with their own bytes alone: they are copied.

    Raises `InputError` for a tensor whose bytes are unknown.
    """
    used = _used_bytes(batch)
    stand_ins: dict[int, Tensor] = {}

    def once(leaf: Tensor | RandomTensor) -> Tensor:
        if id(leaf) not in stand_ins:
            stand_ins[id(leaf)] = (
                draw(leaf) if isinstance(leaf, RandomTensor) else convert(_cut_off(leaf, used))
            )
        return stand_ins[id(leaf)]

    return map_batch(batch, once), list(stand_ins.values())


def _used_bytes(batch: Any) -> Counter[int]:
    """Return how many bytes of each storage, by its address, the tensors of a batch use."""
    used: Counter[int] = Counter()
    for leaf in {id(leaf): leaf for leaf in leaves_of(batch)}.values():
        problem = layout_problem(leaf) if isinstance(leaf, Tensor) else None
        if problem is not None:
            raise InputError(f"the batch has a tensor of {tuple(leaf.shape)} that {problem}")
        if _is_plain(leaf):
            used[leaf.untyped_storage().data_ptr()] += leaf.numel() * leaf.element_size()
    return used


def _cut_off(leaf: Tensor, used: Counter[int]) -> Tensor:
    """Return a tensor of the batch without what it was made of: a graph, a larger storage."""
    if not _is_plain(leaf):
        return leaf
    storage = leaf.untyped_storage()
    is_part = storage.nbytes() > used[storage.data_ptr()]
    if leaf.is_leaf and not leaf.is_inference() and not is_part:
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _is_plain(leaf: Any) -> bool:
    """Return whether a leaf is a real tensor that is one part of one storage."""
    return (
        isinstance(leaf, Tensor)
        and not isinstance(leaf, FakeTensor)
        and not has_parts(type(leaf))
        and leaf.layout is torch.strided
        and not leaf.is_meta
    )


def named_tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with its path: `0`, `labels`, `boxes.1`; an empty one for a tree of one.

    What is no tensor and no container is passed over.
    """
    if isinstance(tree, Tensor):
        yield path, tree
        return
    if isinstance(tree, Mapping):
        parts = tree.items()
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = zip(names, tree, strict=True)  # type: ignore[assignment]
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = vars(tree).items()
    else:
        return
    for name, part in parts:
        yield from named_tensors(part, f"{path}.{name}" if path else str(name))
