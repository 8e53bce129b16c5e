"""The batch of a step: a tensor, or any tree of tensors, its names and its stand-ins."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@dataclass(frozen=True)
class RandomTensor:
    """A tensor in a batch that is drawn where the step runs: on fake tensors it takes no memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    """Floating-point values are normal; booleans are either."""
    below: int = 1
    """Whole numbers are from 0 up to this one, exclusive: 0 is an index of every table."""

    def draw(self, device: torch.device) -> Tensor:
        """Return the tensor."""
        shape, dtype = tuple(self.shape), self.dtype
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, dtype=dtype, device=device)
        below = 2 if dtype is torch.bool else self.below
        return torch.randint(below, shape, dtype=dtype, device=device)


@dataclass(frozen=True)
class Call:
    """A batch that is the arguments of a model: `model(*args, **kwargs)`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def call_model(model: nn.Module, batch: Any) -> Any:
    """Return what a model returns for a batch.

    A `Call` gives its arguments, a tuple or list positional ones, a mapping keyword arguments,
    anything else one argument.
    """
    if isinstance(batch, Call):
        return model(*batch.args, **batch.kwargs)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    return model(batch)


def map_batch(batch: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a batch with each tensor, and each `RandomTensor`, replaced by `convert(it)`.

    A batch is such a leaf, or a list, tuple, named tuple or mapping of batches; a mapping of
    another class, such as transformers' `BatchEncoding`, keeps its class. All else stays as it is.
    """
    if isinstance(batch, Tensor | RandomTensor):
        return convert(batch)
    if isinstance(batch, Call):
        return Call(map_batch(batch.args, convert), map_batch(batch.kwargs, convert))
    if isinstance(batch, Mapping):
        items = {key: map_batch(value, convert) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return items
        filled = copy.copy(batch)
        for key, value in items.items():
            filled[key] = value
        return filled
    if isinstance(batch, list | tuple):
        make: Any = getattr(type(batch), "_make", type(batch))  # a named tuple takes items apart
        return make(map_batch(item, convert) for item in batch)
    return batch


def batch_as(dtype: torch.dtype, batch: Any) -> Any:
    """Return a batch whose floating-point tensors have a dtype."""
    return map_batch(batch, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)


def leaves_of(batch: Any) -> list[Any]:
    """Return the tensors of a batch in its order, each as often as it occurs."""
    found: list[Any] = []
    map_batch(batch, found.append)
    return found


def stand_in_batch(
    batch: Any, convert: Callable[[Tensor], Tensor], draw: Callable[[RandomTensor], Tensor]
) -> tuple[Any, list[Tensor]]:
    """Return the batch on stand-ins, and these.

    A tensor that occurs twice is converted once. A view that leaves a part of its storage unused,
    such as the first rows of all data, counts with its own bytes alone: it is copied.
    """
    stand_ins: dict[int, Tensor] = {}

    def once(leaf: Tensor | RandomTensor) -> Tensor:
        if id(leaf) not in stand_ins:
            stand_ins[id(leaf)] = (
                draw(leaf) if isinstance(leaf, RandomTensor) else convert(_cut_off(leaf))
            )
        return stand_ins[id(leaf)]

    return map_batch(batch, once), list(stand_ins.values())


def _cut_off(leaf: Any) -> Any:
    """Return a tensor of the batch without what it was made of: a graph, a larger storage."""
    if isinstance(leaf, FakeTensor) or is_traceable_wrapper_subclass(leaf):
        return leaf
    is_part = leaf.untyped_storage().nbytes() > leaf.nbytes
    if leaf.is_leaf and not leaf.is_inference() and not is_part:
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def floats_in(tree: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of a tree."""
    return (tensor for _, tensor in named_tensors(tree) if tensor.is_floating_point())


def named_tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with its path: `0`, `labels`, `boxes.1`; an empty one for a tree of one.

    Dataclasses, and tensors that wrap tensors, are containers. All else is passed over.
    """
    wrapper: Any = tree
    parts: Iterable[tuple[Any, Any]]
    if is_traceable_wrapper_subclass(wrapper):
        parts = [(name, getattr(tree, name)) for name in wrapper.__tensor_flatten__()[0]]
    elif isinstance(tree, Tensor):
        yield path, tree
        return
    elif isinstance(tree, Mapping):
        parts = tree.items()
    elif is_dataclass(tree):
        parts = [(one.name, getattr(tree, one.name, None)) for one in fields(tree)]
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = zip(names, tree, strict=True)
    else:
        return
    for name, part in parts:
        yield from named_tensors(part, f"{path}.{name}" if path else str(name))
