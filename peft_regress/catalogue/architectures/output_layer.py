"""Find the layer that gives a classifier's logits, by a rule. Imports torch: import it late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["output_layer", "without_weights"]

# Prime, and no network has a layer of that width: a layer that has it has it from num_classes.
_UNUSUAL_CLASSES: Final = 1237


def output_layer(build: Callable[[int], nn.Module]) -> str:
    """Return the qualified name of the layer whose outputs are as many as there are classes.

    `build` takes the number of classes and returns the model. It is called once, with an unusual
    number and under `without_weights`, so that the largest model takes neither memory nor time.
    Raises `InputError` unless there is exactly one such layer: auxiliary classifiers must be off.
    """
    # Small tensors are real, and may be drawn.
    with torch.random.fork_rng(devices=[]), without_weights():
        model = build(_UNUSUAL_CLASSES)
    found: list[str] = [
        name
        for name, module in model.named_modules()
        if any(
            parameter.ndim > 1 and parameter.shape[0] == _UNUSUAL_CLASSES
            for parameter in module.parameters(recurse=False)
        )
    ]
    if len(found) != 1:
        msg = (
            f"cannot tell the last layer of {type(model).__name__}: with {_UNUSUAL_CLASSES} "
            f"classes, {len(found)} layers have as many outputs {found[:5]} where one is wanted. "
            "Register an architecture that names its `head`."
        )
        raise InputError(msg)
    return found[0]


class without_weights(TorchFunctionMode):  # noqa: N801  (used as a context manager)
    """Put what `torch.empty` makes, which is where weights come from, on the meta device.

    `torch.device("meta")` as a context does so with every tensor, and fails where a constructor
    reads values of one, as those of RegNet do. Here such small tensors stay real.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, on the meta device if it is `torch.empty`."""
        given = kwargs or {}
        if func is torch.empty:
            given = {**given, "device": "meta"}
        return func(*args, **given)
