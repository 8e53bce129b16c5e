"""Find the layer that gives a classifier's logits. Imports torch: import it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from peft_regress.errors import InputError

# A prime that no network uses as a width: a layer of this width gets it from num_classes.
_UNUSUAL_CLASSES: Final = 1237


def output_layer(build: Callable[[int], nn.Module]) -> str:
    """Return the qualified name of the layer with one output per class.

    `build` takes the number of classes and returns the model. It is called once, with an unusual
    number and under `without_weights`, so even the largest model takes little memory and time.
    Raises `InputError` unless there is exactly one such layer: auxiliary classifiers must be off.
    """
    # Small tensors are real and may be drawn at random.
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
        raise InputError(
            f"cannot find the last layer of {type(model).__name__}: with {_UNUSUAL_CLASSES} "
            f"classes, {len(found)} layers instead of one have as many outputs {found[:5]}. "
            "Register an architecture that names its `head`."
        )
    return found[0]


class without_weights(TorchFunctionMode):  # noqa: N801  (used as a context manager)
    """Make `torch.empty`, which allocates weights, use the meta device.

    `torch.device("meta")` as a context puts every tensor there and fails if a constructor reads
    values, as RegNet's does. Here such small tensors stay real.
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
