"""Stand-ins for the tensors of a model, and its recording on them.

The model is built for real and measured on stand-ins: building it under a fake mode breaks peft's
swap of weights and initializers that read values, and a deep copy costs its whole memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from peft_regress.cost.batches import RandomTensor, stand_in_batch
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import NeedsValuesError, cannot_be_fake
from peft_regress.cost.step_cost import Tensors
from peft_regress.gc_pause import paused_gc

Measured = TypeVar("Measured")

# What every module has besides its tensors: hooks and flags, which hold none.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))

_CONTAINERS = (OrderedDict, dict, list)


@contextmanager
def swapped_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace every tensor of a model by `convert(tensor)`, and restore it at the end.

    Covers parameters, buffers and plain attributes of modules, also in lists, tuples and dicts. A
    tensor that occurs twice is converted once, so tied weights stay tied, and its
    stand-in gets its hooks. Gradients, attributes, submodules and container items that are set
    meanwhile are dropped. Tensors in objects of other classes stay as they are.
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
        self._undo: list[tuple[Any, list[Any]]] = []

    def module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        # Note whole dicts, so that `undo` also drops what the forward pass adds to a module.
        attributes = vars(module)
        for slots in (attributes, attributes["_modules"]):
            self._undo.append((slots, _contents(slots)))
        self._container(attributes["_parameters"])
        self._container(attributes["_buffers"])
        for name in attributes.keys() - _OWN_ATTRIBUTES:
            attributes[name] = self._stand_in(attributes[name])
        for child in module.children():
            self.module(child)

    def undo(self) -> None:
        for container, before in reversed(self._undo):
            if not _identical(_contents(container), before):
                _refill(container, before)

    def _stand_in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._stand_ins:
                # Keep the original too, or its id could be reused for another tensor.
                self._stand_ins[id(value)] = (value, self._with_hooks(value))
            return self._stand_ins[id(value)][1]
        if isinstance(value, nn.Module):
            self.module(value)
        elif isinstance(value, tuple):
            return self._tuple(value)
        elif isinstance(value, _CONTAINERS) and id(value) not in self._seen:
            self._container(value)
        return value

    def _with_hooks(self, tensor: Tensor) -> Tensor:
        stand_in = self._convert(tensor)
        if tensor.is_leaf and stand_in is not tensor:
            for hook in (tensor._backward_hooks or {}).values():  # noqa: SLF001 - no public list
                stand_in.register_hook(hook)  # type: ignore[no-untyped-call]
        return stand_in

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        stand_ins = [self._stand_in(item) for item in value]
        if _identical(stand_ins, value):
            return value
        make: Any = getattr(type(value), "_make", type(value))  # a named tuple takes items apart
        made: tuple[Any, ...] = make(stand_ins)
        return made

    def _container(self, container: Any) -> None:
        """Swap the items in place, since others may hold the same container."""
        self._seen.add(id(container))
        before = _contents(container)
        self._undo.append((container, before))
        stand_ins = [self._stand_in(item) for item in before]
        if not _identical(stand_ins, before):
            _refill(container, stand_ins)


def without_graph(tensor: Tensor) -> Tensor:
    """Return a tensor that can be copied: itself, or what an operator computed, detached."""
    return tensor if tensor.is_leaf else tensor.detach()


def _contents(container: Any) -> list[Any]:
    """List the items of a container; of a dict the keys, then the values."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def _refill(container: Any, contents: list[Any]) -> None:
    """Replace the items by the built-in methods, which a class may have overridden."""
    built_in: Any = next(cls for cls in _CONTAINERS if isinstance(container, cls))
    built_in.clear(container)
    if isinstance(container, dict):
        half = len(contents) // 2
        built_in.update(container, zip(contents[:half], contents[half:], strict=True))
    else:
        built_in.extend(container, contents)


def _identical(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def cloner() -> Callable[[Tensor], Tensor]:
    """Return a function that clones tensors one by one; clones share storages as originals do."""
    # Weak, or a storage that an optimizer replaces would outlive its use.
    copies: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()

    def clone(tensor: Tensor) -> Tensor:
        apart = is_traceable_wrapper_subclass(tensor)
        copy = clone_parts(tensor) if apart else clone_plain(tensor)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(copy, requires_grad=tensor.requires_grad)
        return copy.requires_grad_(tensor.requires_grad)

    def clone_parts(tensor: Any) -> Tensor:
        names, context = tensor.__tensor_flatten__()
        parts = {name: clone(getattr(tensor, name)) for name in names}
        copy: Tensor = type(tensor).__tensor_unflatten__(
            parts, context, tensor.size(), tensor.stride()
        )
        return copy

    def clone_plain(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        copied = copies.get(id(storage))
        if copied is None:
            copied = copies[id(storage)] = storage.clone()  # type: ignore[no-untyped-call]
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return copy.set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())

    return clone


@dataclass(frozen=True)
class Stage:
    """A recorder that follows a model on stand-ins, and the batch on stand-ins."""

    recorder: StepRecorder
    batch: Any


@contextmanager
def staged(model: nn.Module, batch: Any, *, fake: bool) -> Iterator[Stage]:
    """Put stand-ins under a model and a batch, to be recorded inside; restore the model after."""
    # A closure may hold real weights as constants, hence allow_non_fake_inputs.
    mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    recorder = StepRecorder(mode)
    convert = mode.from_tensor if mode is not None else cloner()
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")

    def draw(random: RandomTensor) -> Tensor:
        with mode if mode is not None else nullcontext():
            return random.draw(device)

    with (
        paused_gc(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(mode=False),
        swapped_tensors(model, convert),
        _as_a_step_needs_torch(),
    ):
        try:
            stand_in, tensors = stand_in_batch(batch, convert, draw)
            with mode if mode is not None else nullcontext():
                recorder.follow(model)
                for tensor in tensors:
                    recorder.hold(tensor, "activation")
                yield Stage(recorder, stand_in)
        except (RuntimeError, AssertionError) as error:
            refusal = cannot_be_fake(error, model, recorder.location) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            recorder.close()


def on_fake_or_real(measure: Callable[..., Measured]) -> Measured:
    """Return `measure(fake=True)`, or `measure(fake=False)` where the model needs values."""
    try:
        return measure(fake=True)
    except NeedsValuesError:
        return measure(fake=False)


def tensors_used(*, fake: bool) -> Tensors:
    """Name what a measurement ran on."""
    return "fake tensors" if fake else "real tensors"


@contextmanager
def _as_a_step_needs_torch() -> Iterator[None]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # Frozen attention layers use operators that fake tensors and formulas know.
    torch.backends.mha.set_fastpath_enabled(False)
    # Fake tensors log the traceback of an error that they raise anyway.
    log = logging.getLogger(fake_tensor.__name__)
    try:
        with mock.patch.object(log, "disabled", new=True):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
