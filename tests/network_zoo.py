"""The networks and methods that step costs are checked on, and their profiles, made once."""

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Literal, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn

from peft_regress import registry
from peft_regress.cost import profile_step

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("fake", [True, False])
Method = Literal["full", "head", "lora"]

CLASSES = 10
METHODS: tuple[Method, ...] = ("full", "head", "lora")
RANK = 4


class Network(NamedTuple):
    """One of torchvision's networks, its last layer, and a small input that it takes."""

    name: str
    head: str
    shape: tuple[int, int, int, int] = (2, 3, 32, 32)

    def build(self):
        return copy.deepcopy(drawn(self))


@functools.lru_cache(maxsize=1)
def drawn(network):
    """Return a network to copy, with random weights: those of the largest take a second."""
    # A ViT is built for one size of image; the others take any.
    sized = {"image_size": network.shape[-1]} if network.name.startswith("vit") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.get_model(
            network.name, weights=None, num_classes=CLASSES, **sized
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
CORE = (
    ("resnet18", "full"),
    ("resnet18", "lora"),
    ("squeezenet1_1", "head"),
    ("mobilenet_v3_small", "full"),
    ("shufflenet_v2_x0_5", "lora"),
    ("convnext_tiny", "lora"),
    ("vit_b_16", "lora"),
    ("swin_t", "lora"),
)
"""Pairings of every method, and of every kind of layer; the rest of the product is nightly."""
_QUICK_TO_TRACE = {("resnet18", "lora"), ("squeezenet1_1", "head")}
"""Pairings that the profiler of the allocator traces in a second or two."""


def pairings(oracle):
    """List the parameters (name, method) for a test against an oracle."""
    quick = _QUICK_TO_TRACE if oracle == "the allocator" else {*CORE}
    return [
        pytest.param(*pair, id="-".join(pair), marks=() if pair in quick else pytest.mark.nightly)
        for pair in ((name, method) for method in METHODS for name in NETWORKS)
    ]


class Applying(nn.Module):
    """A function as a module, whose operators are the module's."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_function(function, *, width=4):
    return nn.Sequential(nn.Linear(width, width), Applying(function), nn.Linear(width, 2))


class Branching(nn.Linear):
    """Takes a path that depends on values, which fake tensors do not have."""

    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


class Between(nn.Module):
    """A layer between a scale, which may need a gradient, and a mean, which gives the logits."""

    def __init__(self, layer, *, input_grad=True):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=input_grad)
        self.layer = layer
        self.logits = nn.Parameter(torch.ones(CLASSES))

    def forward(self, x):
        y = self.layer(x * self.scale)
        means = y.flatten(1).mean(1, keepdim=True)  # (batch, 1)
        return means * self.logits  # (batch, CLASSES)


def adamw(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], foreach=False)


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)


def step(model, shape, *, classes=2, optimizer=sgd, **settings):
    return profile_step(model, optimizer, input_shape=shape, num_classes=classes, **settings)


def step_between(layer, shape, *, input_grad=True, **settings):
    """Profile a layer alone, which may have to give its input a gradient."""
    model = Between(layer, input_grad=input_grad)
    return step(model, shape, classes=CLASSES, loss="sum", **settings)


def by_module(cost):
    found = {}
    for site in cost.flops_by_site:
        if site.phase in {"forward", "backward"}:
            forward, backward = found.get(site.module, (0, 0))
            is_forward = site.phase == "forward"
            found[site.module] = (
                (forward + site.flops, backward) if is_forward else (forward, backward + site.flops)
            )
    return found


def adapted(name, method):
    network, chosen = NETWORKS[name], registry.get("method", method)
    model: nn.Module = chosen.at(RANK if chosen.ranks else None, heads=(network.head,)).adapt(
        network.build(), seed=0
    )
    return model.train()


def profiled(model, name, method, *, fake=True):
    chosen = registry.get("method", method)
    rank = RANK if chosen.ranks else None
    return profile_step(
        model,
        lambda stand_in: chosen.at(rank).make_optimizer(stand_in),
        input_shape=NETWORKS[name].shape,
        num_classes=CLASSES,
        fake=fake,
    )


def real_cost(name, method, *, fake=False):
    return step(
        adapted(name, method), NETWORKS[name].shape, classes=CLASSES, optimizer=adamw, fake=fake
    )


@functools.cache
def fake_cost(name, method):
    """Profile a pairing on fake tensors, once for all tests of a process."""
    return real_cost(name, method, fake=True)


def digest(cost):
    """Digest all numbers of a cost, whatever tensors it was measured on."""
    same = dataclasses.replace(cost, tensors="fake tensors")
    return hashlib.sha256(repr(same).encode()).hexdigest()


class RealStep(NamedTuple):
    """A training step on real tensors, and all that it works on."""

    run: Callable[[], object]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor


def real_step(model, shape):
    """Make a training step, written out as one would: nothing of the package's."""
    optimizer = adamw(model)
    device = next(model.parameters()).device
    images = torch.randn(shape, device=device)
    labels = torch.randint(CLASSES, shape[:1], device=device)

    def run():
        optimizer.zero_grad(set_to_none=True)
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()

    return RealStep(run, model, optimizer, images, labels)
