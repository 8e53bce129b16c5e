"""Architectures: what is built, from which seed, at what cost to the import."""

import pytest
import torch
import torchvision

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.architectures.torchvision_models import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
    TORCHVISION,
)
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.measure.costs import CostSettings, adaptation_cost
from peft_regress.measure.sources import train_source

ALL = (RESNET18, MOBILENET_V2, MOBILENET_V3_SMALL, SHUFFLENET_V2_X0_5)


@pytest.mark.parametrize("architecture", ALL, ids=lambda item: item.name)
def test_a_model_is_unmodified_torchvision_and_its_seed_alone_fixes_the_weights(architecture):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = architecture.build(num_classes=10, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    original = torchvision.models.get_model(architecture.name, weights=None, num_classes=10)
    assert repr(model) == repr(original)
    torch.manual_seed(2)
    first, again, other = (
        made.state_dict()
        for made in (model, *(architecture.build(num_classes=10, seed=seed) for seed in (5, 6)))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = f"{architecture.head}.weight"
    assert not torch.equal(first[weight], other[weight])
    assert len(first[weight]) == 10
    assert registry.get("architecture", architecture.name) is architecture
    assert TORCHVISION.find(architecture.name).head == architecture.head


def test_unknown_names_are_refused_with_the_closest_of_torchvision():
    assert TORCHVISION.find("fcn_resnet50") is None
    with pytest.raises(UnknownNameError, match="unknown architecture 'fcn_resnet50'"):
        registry.get("architecture", "fcn_resnet50")
    with pytest.raises(UnknownNameError, match=r"'resnet5'\. Did you mean 'resnet50'\? Known: eff"):
        registry.get("architecture", "resnet5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_b_16", "Wrong image height! Expected 224 but got 64!"),
        ("inception_v3", "Kernel size can't be greater than actual input size"),
    ],
)
def test_a_size_that_a_model_does_not_take_is_refused_with_its_own_reason(name, reason):
    adaptation = Adaptation(method="head", architecture=name)
    with pytest.raises(InputError, match=f"{name} cannot be profiled .*{reason}"):
        adaptation_cost(adaptation, CostSettings(resolution=64))
    if name == "vit_b_16":
        with pytest.raises(InputError, match=f"{name} cannot be trained .* 3x32x32: Wrong image"):
            train_source(registry.get("architecture", name))
