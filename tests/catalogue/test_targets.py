"""Targets of adapters: checked against which layers a forward pass is seen to call."""

import pytest
import torch
from torch import nn

from peft_regress.catalogue.architectures.torchvision_models import TORCHVISION
from peft_regress.catalogue.methods.targets import ALL_BUT_GROUPED, Targets, bypassed_modules
from peft_regress.cost.stand_ins import without_weights

WITH_GROUPED = Targets(description="", grouped=True)
CLASSES = 1237
"""A prime that no network has as a width."""
ONE_OF_A_KIND = {
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "resnet50", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
    *("swin_v2_t", "vgg11", "vit_b_16"),
}
"""One of each class of model, or more if its blocks differ."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ONE_OF_A_KIND else pytest.mark.nightly)
        for name in TORCHVISION.names()
    ],
)
def test_eligible_are_the_layers_that_are_called_and_the_head_comes_last(name):
    """The head is the one layer with as many outputs as classes."""
    architecture = TORCHVISION.find(name)
    assert (architecture.name, architecture.matrices) == (name, ())
    with without_weights():
        model = architecture.build(num_classes=CLASSES, seed=0).to("meta").eval()
    weights = {name: p.shape for name, p in model.named_parameters() if p.ndim > 1}
    heads = [name for name, shape in weights.items() if shape[0] == CLASSES]
    assert heads == [f"{architecture.head}.weight"]
    kinds = nn.Conv2d | nn.Linear
    layers = {name: one for name, one in model.named_modules() if isinstance(one, kinds)}
    called = []
    for layer_name, layer in layers.items():
        layer.register_forward_hook(lambda *_, layer_name=layer_name: called.append(layer_name))
    logits = model(torch.empty(2, 3, 224, 224, device="meta"))
    assert logits.shape == (2, CLASSES)
    assert called[-1] == architecture.head
    eligible = WITH_GROUPED.find(model, heads=(architecture.head,))
    assert set(eligible) == set(called) - {architecture.head}
    assert bypassed_modules(model) == layers.keys() - set(called)
    ungrouped = ALL_BUT_GROUPED.find(model, heads=(architecture.head,))
    assert set(ungrouped) == {n for n, m in eligible.items() if getattr(m, "groups", 1) == 1}


class _Attention(nn.MultiheadAttention):
    """A subclass, which reads the weights as its parent does."""


class _Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, kernel_size=3, groups=4)
        self.conv = nn.Conv2d(4, 4, kernel_size=1)
        self.attention = _Attention(4, num_heads=2)
        self.same_conv = self.conv
        self.line = nn.Conv1d(4, 4, kernel_size=1)
        self.out_proj = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


def test_head_grouped_and_bypassed_layers_are_left_out_in_the_models_order():
    model = _Mixed()
    found = ALL_BUT_GROUPED.find(model, heads=("head",))
    assert list(found) == ["conv", "out_proj"]
    assert found["conv"] is model.conv
    assert list(WITH_GROUPED.find(model, heads=("head",))) == ["depthwise", "conv", "out_proj"]
    # `out_proj` of an attention is read; one of the same name elsewhere is called.
    assert bypassed_modules(model) == {"attention.out_proj"}


def test_a_model_that_is_an_attention_itself_has_no_target():
    assert ALL_BUT_GROUPED.find(nn.MultiheadAttention(4, num_heads=2), heads=()) == {}
