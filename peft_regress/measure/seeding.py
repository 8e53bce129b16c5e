"""Set a seed in every generator that a model, its data or its training may draw from."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def seed_all(seed: int) -> None:
    """Seed torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that models draw from)
    random.seed(seed)


@contextlib.contextmanager
def restored_generators() -> Iterator[None]:
    """Give the global generators back as they were: other tests must not notice."""
    of_numpy, of_random = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_random)
