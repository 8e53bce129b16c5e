"""Programs of tiny networks, exported once, and when there is no runtime to export for."""

import functools
import importlib.metadata
import os

import peft
import pytest
import torch
from tiny_network import tiny_network

from peft_regress.errors import InputError
from peft_regress.measure.edge.costs import EdgeModel
from peft_regress.measure.edge.package import require_executorch
from peft_regress.measure.edge.program import training_program
from peft_regress.measure.objective import Objective

loss = Objective().loss


@functools.cache
def problem():
    """Return why ExecuTorch cannot be used here; '' if it can."""
    try:
        require_executorch(runs=True)
    except InputError as error:
        return str(error)
    return ""


def require():
    """Skip a test that exports where ExecuTorch cannot be used; in CI, fail."""
    if not problem():
        return
    if os.environ.get("CI"):
        pytest.fail(problem())
    pytest.skip(problem())


def without_executorch(monkeypatch):
    """Let a test see an environment without it."""
    version = importlib.metadata.version

    def absent(name):
        if name == "executorch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)


def batch(*, seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 12, 12, generator=generator)
    return images, torch.randint(4, (count,), generator=generator)


def lora_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=2, target_modules=["conv", "linear"], modules_to_save=["head"], lora_alpha=2
        )
        return peft.get_peft_model(tiny_network(), config).eval()


def subject(model, *, merged=None, steps=3):
    batches = [batch(seed=step) for step in range(steps)]
    return EdgeModel(model=model, batches=batches, loss=loss, merged=merged, inputs=batches[0][0])


@functools.cache
def tiny_training():
    """Return the training program of the tiny network with LoRA, exported once."""
    return training_program(lora_model(), batch(), loss=loss)
