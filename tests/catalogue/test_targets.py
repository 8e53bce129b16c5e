"""Targets of adapters: checked against which layers a forward pass is seen to call."""

import pytest
import torch
from torch import nn
from torchvision_zoo import every_classifier

from peft_regress.catalogue.architectures.torchvision_models import TORCHVISION, without_weights
from peft_regress.catalogue.methods.targets import ALL_BUT_GROUPED, Targets, bypassed_modules

WITH_GROUPED = Targets(description="", grouped=True)


def _weight_layers(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


@pytest.mark.parametrize("name", every_classifier())
def test_eligible_are_the_layers_that_are_called_and_the_head_comes_last(name):
    architecture = TORCHVISION.find(name)
    with without_weights():
        model = architecture.build(num_classes=11, seed=0).to("meta").eval()
    layers = _weight_layers(model)
    called = []
    for layer_name, layer in layers.items():
        layer.register_forward_hook(lambda *_, layer_name=layer_name: called.append(layer_name))
    logits = model(torch.empty(2, 3, 224, 224, device="meta"))
    assert logits.shape == (2, 11)
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
