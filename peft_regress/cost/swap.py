"""A model with other tensors in the same places, for a while.

The model is built for real and measured on stand-ins: building it under a fake mode breaks peft's
swap of weights and initializers that look at values, and a deep copy of it costs its whole memory.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["cloner", "swapped_tensors"]

# What every module has, its tensors apart: hooks and flags, nothing to look into.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))


@contextmanager
def swapped_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put `convert(tensor)` in the place of every tensor of a model, and take it back at the end.

    Parameters, buffers, and what modules keep as plain attributes, in lists, tuples and dicts too.
    A tensor in several places is converted once, so tied weights stay tied. Attributes that are set
    meanwhile, and gradients, are not carried over to the model.
    """
    swap = _Swap(convert)
    try:
        swap.module(model)
        yield
    finally:
        swap.undo()


class _Swap:
    def __init__(self, convert: Callable[[Tensor], Tensor]) -> None:
        self._convert = convert
        self._stand_ins: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: set[int] = set()
        self._undo: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        # Whole dicts are noted, so that what the forward pass adds to a module goes as well.
        attributes = vars(module)
        for slots in (attributes, attributes["_parameters"], attributes["_buffers"]):
            self._undo.append((slots, dict(slots)))
        for slots in (attributes["_parameters"], attributes["_buffers"]):
            slots.update({name: self._stand_in(value) for name, value in slots.items()})
        for name in attributes.keys() - _OWN_ATTRIBUTES:
            attributes[name] = self._stand_in(attributes[name])
        for child in module.children():
            self.module(child)

    def undo(self) -> None:
        for slots, before in reversed(self._undo):
            slots.clear()
            slots.update(before)

    def _stand_in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._stand_ins:
                # The original is kept beside it, or its id could come to mean another tensor.
                self._stand_ins[id(value)] = (value, self._convert(value))
            return self._stand_ins[id(value)][1]
        if isinstance(value, nn.Module):
            self.module(value)
        elif type(value) in {list, tuple, dict} and id(value) not in self._seen:
            return self._container(value)
        return value

    def _container(self, value: Any) -> Any:
        self._seen.add(id(value))
        items = value.values() if isinstance(value, dict) else value
        stand_ins = [self._stand_in(item) for item in items]
        self._seen.discard(id(value))
        if all(new is old for new, old in zip(stand_ins, items, strict=True)):
            return value
        if isinstance(value, dict):
            return dict(zip(value, stand_ins, strict=True))
        return type(value)(stand_ins)


def cloner() -> Callable[[Tensor], Tensor]:
    """Make a function that clones tensors one by one and keeps what shares a storage sharing it."""
    # Weakly, or a storage that an optimizer replaces would outlive its use.
    copies: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()

    def clone(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        copied = copies.get(id(storage))
        if copied is None:
            copied = copies[id(storage)] = storage.clone()  # type: ignore[no-untyped-call]
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        copy.set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(copy, requires_grad=tensor.requires_grad)
        return copy.requires_grad_(tensor.requires_grad)

    return clone
