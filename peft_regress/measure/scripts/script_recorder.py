"""Record the steps of a script: as `cost` does, but what has no formula is named, not refused."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._ops import HigherOrderOperator
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from peft_regress.cost.operators import Operator
from peft_regress.cost.recorder import Args, Kwargs, StepRecorder
from peft_regress.cost.step_cost import Category
from peft_regress.cost.storages import storages_of, tensors_in


def has_one_storage(tensor: Tensor) -> bool:
    """Return whether the bytes of a tensor are known: it is neither nested nor sparse."""
    return not tensor.is_nested and tensor.layout is torch.strided


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Compute something that is not the script's."""
    with torch.no_grad(), _disable_current_modes():
        yield


class ScriptRecorder(StepRecorder):  # type: ignore[no-untyped-call]
    """A recorder that never ends the script that it watches."""

    def __init__(self, safely: Callable[..., Any]) -> None:
        super().__init__()
        self._safely = partial(safely, "an operator")
        """Calls a function, and closes this recorder if it fails."""
        self._names: dict[nn.Module, str] = {}
        self._is_closed = False
        self.uncounted: set[tuple[str, str]] = set()
        """Phase and name of the operators whose work is in no count."""
        self.is_fetching = False
        """Whether a batch is made: what it is made of, such as all data, is no cost of a step."""
        self._fetched_from: set[int] = set()

    def _follow_calls(self, names: dict[nn.Module, str]) -> None:
        # By torch's global hooks: a module that has hooks can neither be saved nor scripted.
        self._names = {**names, **self._names}

    def enter_module(self, module: nn.Module) -> None:
        """Note that a module runs from now on, if it is followed."""
        if module in self._names:
            self._trail.enter(self._names[module])

    def leave_module(self, module: nn.Module) -> None:
        """Note that it has run."""
        if module in self._names:
            self._trail.leave()

    def start_step(self) -> None:
        """Begin a step, and see what is alive then."""
        super().start_step()
        self._safely(self._hold_other_modules)

    def _hold_other_modules(self) -> None:
        """Account for what is alive beside the model, such as an average of it."""
        gc.collect()
        for module in gc.get_objects():
            if issubclass(type(module), nn.Module):  # `isinstance` would ask a proxy
                held = vars(module)
                for tensors in (held.get("_parameters", {}), held.get("_buffers", {})):
                    for tensor in tensors_in(list(tensors.values())):
                        self._hold_new(tensor, "buffer", "")

    def close(self) -> None:
        """Record no more."""
        super().close()
        self._is_closed = True

    def hold_batch(self, tensors: Iterable[Tensor]) -> None:
        """Account for what the model is called with, wherever it was made."""
        self.is_fetching = False
        for tensor in tensors:
            self._hold_new(tensor, "activation", "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_other = isinstance(func, HigherOrderOperator)
        if is_other and not self._is_closed:
            self.uncounted.add((self.phase, str(func)))
        if (
            is_other
            or self._is_closed
            or (self.is_fetching and str(func).startswith("aten.set_"))
            or any(tensor.is_meta for tensor in tensors_in((args, kwargs)))
        ):
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _before(self, *args: Any) -> str:
        return self._safely(super()._before, *args) or ""

    def _after(self, *args: Any) -> None:
        self._safely(super()._after, *args)

    def _claim_gradient(self, module: str, parameter: Tensor) -> None:
        self._safely(super()._claim_gradient, module, parameter)

    def _check(self, operator: Operator, module: str, args: Args, kwargs: Kwargs) -> None:
        tensors = tensors_in((args, kwargs))
        # Labels, which the loss alone gets, are a part of the batch.
        is_labels = self.phase == "forward" and not module and not self.is_fetching
        if self.is_fetching:
            # A view of all data, and what a worker sent, are held if the model gets them.
            self._fetched_from = {id(one) for tensor in tensors for one in storages_of(tensor)}
            # What is computed with a weight, such as an average of it, is no part of a batch.
            shapes = {tensor.shape for tensor in tensors if self._is_of_model(tensor)}
            tensors = [tensor for tensor in tensors if tensor.shape in shapes]
        if operator.uses_operands:
            for tensor in tensors:
                self._hold_new(tensor, "activation" if is_labels else "buffer", module)
        if operator.stops_the_count or (operator.many_tensors_remedy and self.phase == "optimizer"):
            self.uncounted.add((self.phase, operator.name))

    def _check_layout(self, tensor: Tensor, operator: str) -> None:
        if not has_one_storage(tensor):
            self.uncounted.add((self.phase, operator))

    def _is_of_model(self, tensor: Tensor) -> bool:
        found = (self._holdings.get(id(storage)) for storage in storages_of(tensor))
        return any(one is not None and one.category in {"param", "buffer"} for one in found)

    def _hold_new(self, tensor: Tensor, category: Category, module: str) -> None:
        if not is_lazy(tensor):  # it has no storage yet
            super()._hold_new(tensor, category, module)

    def _add(self, storage: UntypedStorage, *args: Any) -> None:
        if storage.device.type != "meta":
            super()._add(storage, *args)

    def _hold_result(self, tensor: Tensor, module: str, operator: str) -> None:
        if self.is_fetching and not self._fetched_from.isdisjoint(map(id, storages_of(tensor))):
            return
        super()._hold_result(tensor, module, operator)


class Losses:
    """The losses of a script as its author means them: without a scaler's factor."""

    def __init__(self) -> None:
        self._scaled = WeakTensorKeyDictionary()
        """The loss behind each scaled one."""
        self.scale = 1.0
        """The factor of the gradients until a scaler or an optimizer takes it out."""

    def follow_scalers(self, safely: Callable[..., object]) -> None:
        """Note each loss that a `GradScaler` multiplies, for the whole process."""
        scale = torch.amp.GradScaler.scale

        def watched_scale(scaler: torch.amp.GradScaler, outputs: Any) -> Any:
            scaled = scale(scaler, outputs)
            safely(self._note_scaled, scaler, outputs, scaled)
            return scaled

        torch.amp.GradScaler.scale = watched_scale  # type: ignore[method-assign, assignment]

    def _note_scaled(self, scaler: torch.amp.GradScaler, outputs: Any, scaled: Any) -> None:
        if isinstance(outputs, Tensor) and scaled is not outputs:
            with unrecorded():
                self._scaled[scaled] = _read([outputs])
                self.scale = scaler.get_scale()

    def read(self, tensors: Tensor | Iterable[Tensor]) -> tuple[float | None, float]:
        """Return loss and divisor of what `backward` is called on, as a `MicroBatch` has them."""
        losses = [tensors] if isinstance(tensors, Tensor) else [*tensors]
        if len(losses) == 1 and losses[0] in self._scaled:
            found: tuple[float | None, float] = self._scaled[losses[0]]
            return found
        return _read(losses)


def _read(losses: list[Tensor]) -> tuple[float | None, float]:
    if any(loss.numel() != 1 for loss in losses):
        return None, 1.0
    divisors = {_divisor(loss.grad_fn) for loss in losses}
    divisor = divisors.pop() if len(divisors) == 1 else 1.0
    return sum(float(loss.detach()) for loss in losses), divisor


def _divisor(node: Any) -> float:
    """Return the product of the numbers by which the last operators divided."""
    divisor = 1.0
    while node is not None and node.name() in {"DivBackward0", "MulBackward0"}:
        number = node._saved_other  # noqa: SLF001
        if number is None or number.numel() != 1 or number.requires_grad or not float(number):
            break
        divisor *= float(number) if node.name() == "DivBackward0" else 1 / float(number)
        node = node.next_functions[0][0]
    return divisor
