"""The tensors that an operator takes or returns, and their storages."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

if TYPE_CHECKING:
    from peft_regress.cost.memory import Category


_CONTAINERS = (list, tuple, dict, set, deque)
_TENSORS_OR_CONTAINERS = (Tensor, *_CONTAINERS)

# Nearly every tensor of a step is of one of these, so they are told apart first.
_OF_ONE_STORAGE = frozenset({FakeTensor, Tensor, nn.Parameter})


class Holding(weakref.ref["UntypedStorage"]):
    """A storage that is alive, and its account."""

    __slots__ = ("category", "key", "module", "nbytes", "operator")
    key: int
    nbytes: int
    category: Category
    module: str
    operator: str


def tensors_in(value: Any) -> list[Tensor]:
    """Return a tensor, or the tensors in a container and in its containers."""
    found: list[Tensor] = []
    _add_tensors(value, found)
    return found


def _add_tensors(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, _CONTAINERS):
        for item in value.values() if isinstance(value, dict) else value:
            # Most arguments are numbers.
            if isinstance(item, _TENSORS_OR_CONTAINERS):
                _add_tensors(item, found)


def storages_of(tensor: Tensor) -> Iterable[UntypedStorage]:
    """Return the storages of a tensor, or of the tensors that a subclass wraps."""
    if type(tensor) in _OF_ONE_STORAGE:
        return (tensor.untyped_storage(),)
    wrapper: Any = tensor
    if can_be_taken_apart(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        return [s for name in names for s in storages_of(getattr(wrapper, name))]
    return (tensor.untyped_storage(),)


def has_parts(cls: type[Tensor]) -> bool:
    """Return whether a subclass of Tensor computes with tensors that it wraps."""
    return cls is not FakeTensor and cls.__torch_dispatch__ is not Tensor.__torch_dispatch__


def can_be_taken_apart(tensor: Any) -> bool:
    """Return whether such a tensor can be split into its parts and put together again."""
    return is_traceable_wrapper_subclass(tensor)


def grow_storages(sizes: Iterable[tuple[Tensor, int]]) -> None:
    """Enlarge the storages of fake CPU tensors to at least the given bytes."""
    for tensor, nbytes in sizes:
        storage = tensor.untyped_storage()
        if tensor.device.type == "cpu" and storage.nbytes() < nbytes:
            storage.resize_(nbytes)
