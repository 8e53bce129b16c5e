"""The learning rate of each method, in one place."""

from __future__ import annotations

from typing import Final

__all__ = ["LEARNING_RATES", "learning_rate"]

# Peak rates under a cosine schedule. TODO
LEARNING_RATES: Final[dict[str, float]] = {
    "full": 4e-4,
    "head": 1e-2,
    "bn_head": 5e-3,
    "lora": 4e-3,
    "dora": 4e-3,
    "galore": 4e-3,
}


def learning_rate(method: str) -> float:
    """Return the peak learning rate of a built-in method."""
    return LEARNING_RATES[method]
