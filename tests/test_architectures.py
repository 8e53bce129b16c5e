"""Architectures: what is built, from which seed, at what cost to the import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from peft_regress import registry
from peft_regress.architectures import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
    TorchvisionModel,
)

ALL = (RESNET18, MOBILENET_V2, MOBILENET_V3_SMALL, SHUFFLENET_V2_X0_5)
each_architecture = pytest.mark.parametrize("architecture", ALL, ids=lambda item: item.name)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        (RESNET18, 11_181_642),
        (MOBILENET_V2, 2_236_682),
        (MOBILENET_V3_SMALL, 1_528_106),
        (SHUFFLENET_V2_X0_5, 352_042),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameter_count_is_that_of_torchvision_with_ten_classes(
    architecture: TorchvisionModel, parameters: int
) -> None:
    model = architecture.build(num_classes=10, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@each_architecture
def test_model_is_unmodified_torchvision(architecture: TorchvisionModel) -> None:
    model = architecture.build(num_classes=10, seed=0)
    original = torchvision.models.get_model(architecture.name, weights=None, num_classes=10)
    assert type(model) is type(original)
    assert repr(model) == repr(original)


@each_architecture
def test_head_is_the_one_layer_that_knows_the_number_of_classes(
    architecture: TorchvisionModel,
) -> None:
    few = architecture.build(num_classes=3, seed=0)
    many = architecture.build(num_classes=11, seed=0)
    differing = {
        name.rpartition(".")[0]
        for name, tensor in few.state_dict().items()
        if tensor.shape != many.state_dict()[name].shape
    }
    assert differing == {architecture.head}
    head = many.get_submodule(architecture.head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 11


@each_architecture
def test_seed_alone_fixes_the_weights(architecture: TorchvisionModel) -> None:
    torch.manual_seed(1)
    first = _state(architecture.build(num_classes=10, seed=5))
    torch.manual_seed(2)
    again = _state(architecture.build(num_classes=10, seed=5))
    other = _state(architecture.build(num_classes=10, seed=6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = f"{architecture.head}.weight"
    assert not torch.equal(first[weight], other[weight])


def test_global_generator_stays_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    SHUFFLENET_V2_X0_5.build(num_classes=10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_entry_points_name_the_four_architectures() -> None:
    for architecture in ALL:
        assert registry.get("architecture", architecture.name) is architecture
        assert "default" in architecture.matrices


def test_listing_every_kind_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from peft_regress import registry\n"
        "names = [registry.names(kind) for kind in ('architecture', 'method', 'task')]\n"
        "assert all(names), names\n"
        "heavy = {'torch', 'torchvision', 'peft', 'galore_torch', 'numpy', 'sklearn', 'mlxtend'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
