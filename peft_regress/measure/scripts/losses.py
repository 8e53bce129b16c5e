"""The losses of a script as its author means them: without a scaler's factor, divisions named."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from peft_regress.measure.scripts.script_recorder import unrecorded


class Losses:
    """Reads losses, and follows the scalers of mixed precision."""

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
