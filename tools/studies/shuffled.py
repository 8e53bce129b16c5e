"""A pytest plugin that runs tests in another order, the same in every worker: `-p shuffled`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

_SEED: Final = 20250731


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle in place."""
    random.Random(_SEED).shuffle(items)  # noqa: S311  (an order is no secret)
