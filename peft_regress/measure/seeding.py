"""Seeds and settings: what a model, its data and its training get from the whole process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that models draw from)
    random.seed(seed)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Measure whatever other tests left: under torch's own settings, and give all back as it was.

    Its default type and device, gradients on, no detection of anomalies; and the generators.
    """
    of_numpy, of_random = np.random.get_state(), random.getstate()  # noqa: NPY002
    default_type = torch.get_default_dtype()
    try:
        with (
            torch.random.fork_rng(),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
            torch.autograd.set_detect_anomaly(mode=False),
            torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext(),
        ):
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(default_type)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_random)
