"""Stand-ins for the tensors of a model, and its recording on them.

The model is built for real and measured as a copy on stand-ins: building it under a fake mode
breaks peft's swap of weights and initializers that read values.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from peft_regress.cost.batches import RandomTensor, stand_in_batch
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.refusals import NeedsValuesError, cannot_be_fake
from peft_regress.cost.step_cost import Tensors
from peft_regress.cost.storages import tensors_in
from peft_regress.gc_pause import paused_gc

Measured = TypeVar("Measured")


def with_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a model with `convert(tensor)` in the place of each of its tensors.

    Covers parameters, buffers and plain attributes of modules, also in lists, tuples and dicts. A
    tensor that occurs twice is converted once, so tied weights stay tied, and its stand-in gets its
    hooks. Tensors in objects of other classes are copied as they are.
    """
    tensors = {id(t): t for module in model.modules() for t in tensors_in(vars(module))}
    stand_ins = {}
    for key, tensor in tensors.items():
        stand_in = stand_ins[key] = convert(tensor)
        if tensor.is_leaf and stand_in is not tensor:
            for hook in (tensor._backward_hooks or {}).values():  # noqa: SLF001 - no public list
                stand_in.register_hook(hook)  # type: ignore[no-untyped-call]
    # What the memo of a deep copy has is taken from there, and not copied.
    return copy.deepcopy(model, stand_ins)


def without_graph(tensor: Tensor) -> Tensor:
    """Return a tensor that can be copied: itself, or what an operator computed, detached."""
    return tensor if tensor.is_leaf else tensor.detach()


def cloner() -> Callable[[Tensor], Tensor]:
    """Return a function that clones tensors one by one; clones share storages as originals do."""
    # Weak, or a storage that an optimizer replaces would outlive its use.
    copies: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()

    def clone(tensor: Any) -> Tensor:
        made: Tensor
        if is_traceable_wrapper_subclass(tensor):
            names, context = tensor.__tensor_flatten__()
            parts = {name: clone(getattr(tensor, name)) for name in names}
            whole = tensor.size(), tensor.stride()
            made = type(tensor).__tensor_unflatten__(parts, context, *whole)
        else:
            storage = tensor.untyped_storage()
            copied = copies.get(id(storage))
            if copied is None:
                copied = copies[id(storage)] = storage.clone()
            made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            made = made.set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad)

    return clone


@dataclass(frozen=True)
class Stage:
    """A recorder that follows a copy of a model on stand-ins, and the batch on stand-ins."""

    recorder: StepRecorder
    model: nn.Module
    batch: Any
    tensors: Tensors


@contextmanager
def staged(model: nn.Module, batch: Any, *, fake: bool) -> Iterator[Stage]:
    """Copy a model and a batch on stand-ins, to be recorded inside."""
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
        _as_a_step_needs_torch(),
    ):
        copied = with_tensors(model, convert)
        try:
            stand_in, tensors = stand_in_batch(batch, convert, draw)
            with mode if mode is not None else nullcontext():
                recorder.follow(copied)
                for tensor in tensors:
                    recorder.hold(tensor, "activation")
                yield Stage(recorder, copied, stand_in, "fake tensors" if fake else "real tensors")
        except (RuntimeError, AssertionError) as error:
            refusal = cannot_be_fake(error, model, recorder.location) if fake else None
            if refusal is None:
                raise
            raise refusal from error
        finally:
            recorder.close()


def on_fake_or_real(measure: Callable[..., Measured], *, fake: bool | None = None) -> Measured:
    """Return what is measured; of None on fake tensors, or on real ones where it needs values."""
    try:
        return measure(fake=fake is not False)
    except NeedsValuesError:
        if fake:
            raise
        return measure(fake=False)


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


class without_weights(TorchFunctionMode):  # noqa: N801  (used as a context manager)
    """Build a model without the memory of its weights: `torch.empty` uses the meta device.

    `torch.device("meta")` as a context puts every tensor there and fails if a constructor reads
    values, as RegNet's does. Here such small tensors stay real.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        return func(*args, **({**given, "device": "meta"} if func is torch.empty else given))
