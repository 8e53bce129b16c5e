"""The networks and methods that the cost ledger is checked on, and their profiles, made once."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest
import torch
import torchvision
from torch import nn

from peft_regress import registry
from peft_regress.cost import StepCost, profile_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

__all__ = [
    "CLASSES",
    "METHODS",
    "NETWORKS",
    "RANK",
    "Between",
    "Method",
    "Network",
    "RealStep",
    "adamw",
    "adapted",
    "adapted_as",
    "digest",
    "fake_cost",
    "pairings",
    "profiled",
    "real_cost",
    "real_step",
]

Method = Literal["full", "head", "lora"]

CLASSES = 10
METHODS: tuple[Method, ...] = ("full", "head", "lora")
RANK = 4


class Network(NamedTuple):
    """One of torchvision's networks, its last layer, and a small input that it takes."""

    name: str
    head: str
    shape: tuple[int, int, int, int] = (2, 3, 32, 32)

    def build(self) -> nn.Module:
        # A ViT is built for one size of image; the others take any.
        sized = {"image_size": self.shape[-1]} if self.name.startswith("vit") else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torchvision.models.get_model(
                self.name, weights=None, num_classes=CLASSES, **sized
            )


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet18", "fc"),
        Network("resnet50", "fc"),
        Network("mobilenet_v2", "classifier.1"),
        Network("mobilenet_v3_small", "classifier.3"),
        Network("efficientnet_b0", "classifier.1"),
        Network("shufflenet_v2_x0_5", "fc"),
        Network("shufflenet_v2_x1_0", "fc"),
        Network("squeezenet1_1", "classifier.1"),
        Network("mnasnet1_0", "classifier.1"),
        Network("convnext_tiny", "classifier.2"),
        Network("regnet_y_400mf", "fc"),
        Network("vit_b_16", "heads.head"),
        Network("swin_t", "head"),
    )
}
# Every kind of layer, and every method; the other pairings are slow.
_FAST = {
    *("resnet18-full", "resnet18-head", "resnet18-lora"),
    *("squeezenet1_1-full", "squeezenet1_1-head", "squeezenet1_1-lora"),
    *("mobilenet_v3_small-full", "mobilenet_v3_small-head"),
    *("shufflenet_v2_x0_5-head", "shufflenet_v2_x0_5-lora"),
    *("convnext_tiny-lora", "vit_b_16-lora", "swin_t-lora"),
}


def pairings(fast: Collection[str] = _FAST) -> list[Any]:
    """List parameters (name, method) of all networks, those outside `fast` marked as slow."""
    return [
        pytest.param(
            name,
            method,
            id=f"{name}-{method}",
            marks=() if f"{name}-{method}" in fast else pytest.mark.slow,
        )
        for name in NETWORKS
        for method in METHODS
    ]


class Between(nn.Module):
    """A layer between a scale, which may need a gradient, and a mean, which gives the logits."""

    def __init__(self, layer: nn.Module, *, input_grad: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=input_grad)
        self.layer = layer
        self.logits = nn.Parameter(torch.ones(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x * self.scale)
        means = y.flatten(1).mean(1, keepdim=True)  # (batch, 1)
        return means * self.logits  # (batch, CLASSES)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)


def adapted(name: str, method: Method) -> nn.Module:
    """Build a network in train mode and adapt it as the package does."""
    return adapted_as(name, method)


def adapted_as(name: str, method: str) -> nn.Module:
    """Adapt by any method of the package; those with a rank have rank 4."""
    network, chosen = NETWORKS[name], registry.get("method", method)
    model: nn.Module = chosen.adapt(
        network.build(), head=network.head, rank=RANK if chosen.ranks else None, seed=0
    )
    return model.train()


def profiled(model: nn.Module, name: str, method: str, *, fake: bool = True) -> StepCost:
    """Profile with the optimizer that the package gives a method."""
    chosen = registry.get("method", method)
    rank = RANK if chosen.ranks else None
    return profile_step(
        model,
        lambda stand_in: chosen.make_optimizer(stand_in, rank=rank),
        input_shape=NETWORKS[name].shape,
        num_classes=CLASSES,
        fake=fake,
    )


@functools.cache
def fake_cost(name: str, method: Method) -> StepCost:
    """Profile a pairing on fake tensors, once for all tests of a process."""
    return profile_step(
        adapted(name, method), adamw, input_shape=NETWORKS[name].shape, num_classes=CLASSES
    )


def digest(cost: StepCost) -> str:
    return hashlib.sha256(repr(cost).encode()).hexdigest()


def real_cost(name: str, method: Method) -> StepCost:
    """Profile a pairing on real tensors."""
    return profile_step(
        adapted(name, method),
        adamw,
        input_shape=NETWORKS[name].shape,
        num_classes=CLASSES,
        fake=False,
    )


class RealStep(NamedTuple):
    """A training step on real tensors, and all that it works on."""

    run: Callable[[], object]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor


def real_step(model: nn.Module, shape: tuple[int, ...]) -> RealStep:
    """Make a training step, written out as one would: nothing of the package's."""
    optimizer = adamw(model)
    device = next(model.parameters()).device
    images = torch.randn(shape, device=device)
    labels = torch.randint(CLASSES, shape[:1], device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()

    return RealStep(run, model, optimizer, images, labels)
