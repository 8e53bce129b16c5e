"""Build a model without the memory and time of its weights. Imports torch: import it late."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class without_weights(TorchFunctionMode):  # noqa: N801  (used as a context manager)
    """Make `torch.empty`, which allocates weights, use the meta device.

    `torch.device("meta")` as a context puts every tensor there and fails if a constructor reads
    values, as RegNet's does. Here such small tensors stay real.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, on the meta device if it is `torch.empty`."""
        given = kwargs or {}
        if func is torch.empty:
            given = {**given, "device": "meta"}
        return func(*args, **given)
