"""Methods that train a part of the model as it stands: which part."""

import pytest
import torch
from tiny_methods import adapted, each, trainable, trained
from tiny_network import tiny_network
from torch import nn
from torchvision.models import swin_t

from peft_regress.catalogue.methods.selective import (
    BITFIT,
    BITFIT_BF16,
    BN_HEAD,
    HEAD,
    NORM,
    NORM_BF16,
)
from peft_regress.errors import UnsupportedCaseError

PARTS = {
    "head": set(),
    "bn_head": set(),
    "bitfit": {"norm.bias", "depthwise.bias", "linear.bias"},
    "norm": {"norm.weight", "norm.bias"},
}


@each(HEAD, BN_HEAD, BITFIT, BITFIT_BF16, NORM, NORM_BF16)
def test_the_head_trains_and_with_it_the_methods_part(method):
    assert trainable(adapted(method)).keys() == PARTS[method.name.removesuffix("-bf16")] | {
        "head.weight",
        "head.bias",
    }


def test_bitfit_takes_the_biases_of_an_attention_and_no_table_of_positions():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, num_heads=2)
            self.head = nn.Linear(4, 2)

    expected = BITFIT.at(heads=("head",)).expected_trainable(Attending())
    assert set(expected) == {
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "head.weight",
        "head.bias",
    }
    with torch.device("meta"):
        model = swin_t(num_classes=3)
    names = set(BITFIT.at(heads=("head",)).expected_trainable(model))
    assert not [name for name in names if "table" in name]
    assert "features.1.0.attn.qkv.bias" in names


def test_norm_tuning_trains_no_statistics_and_a_bias_only_where_there_is_one():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.batch = nn.BatchNorm2d(3)
            self.plain = nn.BatchNorm2d(3, affine=False)
            self.rms = nn.RMSNorm(3)
            self.head = nn.Linear(3, 2)

    expected = NORM.at(heads=("head",)).expected_trainable(Normalized())
    assert list(expected) == [
        "batch.weight",
        "batch.bias",
        "rms.weight",
        "head.weight",
        "head.bias",
    ]
    before = tiny_network().norm.running_mean
    assert torch.equal(trained(NORM).norm.running_mean, before)


class WithoutTargets(nn.Module):
    """No bias but the head's, and a normalization that has no parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("method", "targets"),
    [(BITFIT, "biases"), (NORM, "normalization layers with a weight")],
    ids=["bitfit", "norm"],
)
def test_a_model_without_a_target_is_unsupported_and_not_measured_as_head_only(method, targets):
    message = rf"{method.name}: WithoutTargets has none of its targets, {targets} .*'head'"
    with pytest.raises(UnsupportedCaseError, match=message):
        method.at(heads=("head",)).adapt(WithoutTargets(), seed=0)


@pytest.mark.parametrize("momentum", [0.01, 0.5])
def test_statistics_follow_at_one_momentum_whatever_the_models_own_is(momentum):
    base = tiny_network()
    base.norm.momentum = momentum
    assert BN_HEAD.at(heads=("head",)).adapt(base, seed=0).norm.momentum == 0.1
    base.norm.momentum = momentum
    assert HEAD.at(heads=("head",)).adapt(base, seed=0).norm.momentum == momentum
