"""Architectures: what is built, from which seed, at what cost to the import."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.architectures.torchvision_models import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
    TORCHVISION,
)
from peft_regress.cost.stand_ins import without_weights
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.measure.costs import CostSettings, adaptation_cost
from peft_regress.measure.sources import train_source

ALL = (RESNET18, MOBILENET_V2, MOBILENET_V3_SMALL, SHUFFLENET_V2_X0_5)
each_architecture = pytest.mark.parametrize("architecture", ALL, ids=lambda item: item.name)

# With the size of image that each is profiled on: a vision transformer takes one size alone.
PROFILED = [
    ("squeezenet1_1", 64),
    *(
        pytest.param(name, resolution, marks=pytest.mark.nightly)
        for name, resolution in {
            "resnet50": 64,
            "efficientnet_b0": 64,
            "shufflenet_v2_x1_0": 64,
            "mnasnet1_0": 64,
            "convnext_tiny": 64,
            "regnet_y_400mf": 64,
            "vit_b_16": 224,
            "swin_t": 64,
        }.items()
    ),
]


@each_architecture
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


@each_architecture
def test_the_rule_finds_the_heads_that_are_written_down(architecture):
    found = TORCHVISION.find(architecture.name)
    assert (found.head, found.matrices) == (architecture.head, ())


def test_unknown_names_are_refused_with_the_closest_of_torchvision():
    assert TORCHVISION.find("fcn_resnet50") is None
    with pytest.raises(UnknownNameError, match="unknown architecture 'fcn_resnet50'"):
        registry.get("architecture", "fcn_resnet50")
    with pytest.raises(UnknownNameError, match=r"'resnet5'\. Did you mean 'resnet50'\? Known: eff"):
        registry.get("architecture", "resnet5")


@pytest.mark.parametrize(("name", "resolution"), PROFILED)
def test_full_head_and_lora_can_be_profiled(name, resolution):
    architecture = registry.get("architecture", name)
    settings = CostSettings(resolution=resolution)
    full, head, lora = (
        adaptation_cost(Adaptation(method=method, architecture=name, rank=rank), settings)
        for method, rank in (("full", None), ("head", None), ("lora", 4))
    )
    with without_weights():
        model = architecture.build(num_classes=10, seed=0).to("meta").eval()
    images = torch.empty(1, 3, resolution, resolution, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert full.step.forward_flops == head.step.forward_flops == counter.get_total_flops()
    assert full.step.backward_flops > lora.step.backward_flops > head.step.backward_flops
    assert full.trainable_params == full.total_params == head.total_params
    layer = model.get_submodule(architecture.head)
    assert head.trainable_params == layer.weight.numel() + layer.bias.numel()
    assert lora.total_params - full.total_params == _lora_size(model, images, architecture.head)
    # A parameter that gets no gradient would be missing here.
    assert lora.step.peak_grad_bytes == 4 * lora.trainable_params
    assert head.step.peak_grad_bytes == 4 * head.trainable_params


def _lora_size(model, images, head, rank=4):
    """Count what LoRA adds to the layers that a forward pass is seen to call."""
    called = []
    for name, module in model.named_modules():
        ungrouped = getattr(module, "groups", 1) == 1
        if isinstance(module, nn.Conv2d | nn.Linear) and ungrouped and name != head:
            module.register_forward_hook(lambda module, *_: called.append(module))
    model(images)
    return sum(rank * (layer.weight.shape[0] + layer.weight[0].numel()) for layer in set(called))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_b_16", "Wrong image height! Expected 224 but got 64!"),
        ("maxvit_t", "shape"),
        ("inception_v3", "Kernel size can't be greater than actual input size"),
    ],
)
def test_a_size_that_a_model_does_not_take_is_refused_with_its_own_reason(name, reason):
    adaptation = Adaptation(method="head", architecture=name)
    with pytest.raises(InputError, match=f"{name} cannot be profiled .*{reason}"):
        adaptation_cost(adaptation, CostSettings(resolution=64))


@pytest.mark.slow
def test_a_source_cannot_be_trained_where_the_size_of_its_images_is_not_taken():
    reason = "vit_b_32 cannot be trained .* 3x32x32: Wrong image height! Expected 224 but got 32!"
    with pytest.raises(InputError, match=reason):
        train_source(registry.get("architecture", "vit_b_32"))


def test_listing_every_kind_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from peft_regress import registry\n"
        "names = [registry.names(kind) for kind in ('architecture', 'method', 'task')]\n"
        "assert all(names), names\n"
        "heavy = {'torch', 'torchvision', 'peft', 'galore_torch', 'numpy', 'sklearn', 'mlxtend'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
