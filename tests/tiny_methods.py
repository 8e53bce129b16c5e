"""Every method on the tiny network: adapted, and trained as far as its schedule goes."""

import copy
import functools

import pytest
import torch
from tiny_network import tiny_data, tiny_network
from tiny_training import finetune
from torch import nn

from peft_regress import registry
from peft_regress.catalogue.methods import Method

RANK = 2


def rank_of(method):
    """Return the rank on the tiny network: of its depthwise layer a multiple of the groups."""
    if method.name.endswith("-grouped"):
        return 8
    return RANK if method.ranks else None


# Those of this package, in the order of their names; other packages may register more.
ALL: tuple[Method, ...] = tuple(
    method.at(rank_of(method), heads=("head",))
    for method in registry.items("method")
    if type(method).__module__.startswith("peft_regress.")
)


class One(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(2, 2)


def each(*methods):
    """Parametrize a test over methods, by name; of twins on bfloat16, LoRA's alone runs by day."""
    names = {method.name for method in methods}
    rows = []
    for method in methods:
        is_twin = method.name.removesuffix("-bf16") in names - {method.name, "lora"}
        marks = pytest.mark.nightly if is_twin else ()
        rows.append(pytest.param(method, id=method.name, marks=marks))
    return pytest.mark.parametrize("method", rows)


def method_named(name):
    return {method.name: method for method in ALL}[name]


def cast_base(model, dtype):
    return model.to(getattr(torch, dtype))


def adapted(method, *, rank=None, seed=0):
    base = cast_base(tiny_network(), method.base_dtype)
    return method.at(rank or rank_of(method), heads=("head",)).adapt(base, seed=seed)


def trained(method, *, steps=None):
    """Train for three steps, or to the end of a schedule that prunes; every caller gets a copy."""
    return copy.deepcopy(_trained(method.name, steps or (22 if method.prunes else 3)))


@functools.cache
def _trained(name, steps):
    method = method_named(name)
    model = adapted(method)
    finetune(
        model,
        method.make_optimizer(model),
        tiny_data(method.base_dtype),
        steps=steps,
        batch_size=16,
        seed=0,
        set_mode=method.set_mode,
    )
    return model.eval()


def loaded(method, folder, *, train=False):
    base = cast_base(tiny_network(), method.base_dtype)
    return method.at(heads=("head",)).load(base, folder, trainable=train).eval()


def trainable(model):
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
