"""Record the steps of a script: as `cost` does, but what has no formula is named, not refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import _disable_current_modes

from peft_regress.cost.operators import Operator
from peft_regress.cost.recorder import StepRecorder
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

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: set[tuple[str, str]] = set()
        """Phase and name of the operators whose work is in no count."""
        self.is_fetching = False
        """Whether a batch is made: what it is made of, such as all data, is no cost of a step."""
        self._fetched_from: set[int] = set()

    def enter_module(self, name: str) -> None:
        """Note that a module runs whose own hook came too late: it is followed since its call."""
        self._trail.enter(name)

    def hold_batch(self, tensors: Iterable[Tensor]) -> None:
        """Account for what the model is called with, wherever it was made."""
        self.is_fetching = False
        for tensor in tensors:
            self._hold_new(tensor, "activation", "")

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and record what it computed and allocated."""
        if isinstance(func, HigherOrderOperator):
            self.uncounted.add((self.phase, str(func)))
            return func(*args, **(kwargs or {}))
        if self.is_fetching:
            # A view of all data, and what a worker sent, are held if the model gets them.
            self._fetched_from = {
                id(storage)
                for tensor in tensors_in((args, kwargs))
                if has_one_storage(tensor)
                for storage in storages_of(tensor)
            }
            if str(func).startswith("aten.set_"):
                return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _check(
        self, operator: Operator, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if operator.uses_operands and not self.is_fetching:
            for tensor in tensors_in((args, kwargs)):
                if has_one_storage(tensor):
                    # Labels, which the loss alone gets, are a part of the batch.
                    is_labels = self.phase == "forward" and not module
                    self._hold_new(tensor, "activation" if is_labels else "buffer", module)
        if operator.stops_the_count or (operator.many_tensors_remedy and self.phase == "optimizer"):
            self.uncounted.add((self.phase, operator.name))

    def _check_layout(self, tensor: Tensor, operator: str) -> None:
        if not has_one_storage(tensor):
            self.uncounted.add((self.phase, operator))

    def _hold_result(self, tensor: Tensor, module: str, operator: str) -> None:
        if not has_one_storage(tensor):
            return
        if self.is_fetching and not self._fetched_from.isdisjoint(map(id, storages_of(tensor))):
            return
        super()._hold_result(tensor, module, operator)
