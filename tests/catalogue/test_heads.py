"""Several heads, a head of several layers, and none: what trains, what is adapted, what ships."""

import pytest
import torch
from tiny_methods import ALL, cast_base, each, rank_of, trainable
from torch import nn

from peft_regress.catalogue.methods import LORA, PeftAdapter
from peft_regress.catalogue.methods.galore import GALORE
from peft_regress.catalogue.methods.selective import BITFIT, BN_HEAD, FULL, HEAD, NORM
from peft_regress.errors import UnsupportedCaseError
from peft_regress.gate.policy import Policy, numerics_of_method

# As test_adapters.py does: peft doubts a normalization layer as a target.
pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")

HEADS = ("cls", "box")
OF_HEADS = {"cls.0.weight", "cls.0.bias", "cls.1.weight", "cls.1.bias", "box.weight", "box.bias"}


class Detecting(nn.Module):
    """A backbone and two heads, one of them two layers; takes (batch, 3, height, width)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
        self.neck = nn.Linear(8, 8)
        self.cls = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.box = nn.Linear(8, 4)

    def forward(self, images):
        hidden = self.depthwise(self.norm(self.conv(images)))
        features = self.neck(hidden.mean((2, 3)))  # (batch, 8)
        return torch.cat([self.cls(features), self.box(features)], dim=1)  # (batch, 12)


def _detecting(method=LORA):
    torch.manual_seed(0)
    return cast_base(Detecting(), method.base_dtype).eval()


# Of peft, on a bfloat16 base: a frozen number of AdaLoRA trains (test_invariants.py).
WHOLE = tuple(method for method in ALL if method.name != "adalora-bf16")


@each(*WHOLE)
def test_heads_train_in_full_and_no_layer_in_them_is_adapted(method):
    method = method.at(rank_of(method), heads=HEADS)
    expected = method.expected_trainable(_detecting(method))
    model = method.adapt(_detecting(method), seed=0)
    assert trainable(model) == expected
    prefix = "base_model.model." if isinstance(method, PeftAdapter) else ""
    assert {f"{prefix}{name}" for name in OF_HEADS} <= expected.keys()
    in_heads = {name for name in expected if name.startswith((f"{prefix}cls", f"{prefix}box"))}
    assert in_heads == {f"{prefix}{name}" for name in OF_HEADS}


@each(LORA, HEAD, BITFIT, NORM, FULL, GALORE)
def test_all_of_the_heads_is_shipped_and_comes_back(method, tmp_path):
    method = method.at(rank_of(method), heads=HEADS)
    model = method.adapt(_detecting(), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    shipped = method.shipped_tensors(model)
    assert shipped.keys() >= OF_HEADS
    method.save(model, tmp_path)
    images = torch.randn(2, 3, 4, 4)
    for train in (True, False):
        loaded = method.load(_detecting(), tmp_path, trainable=train)
        assert torch.equal(loaded.eval()(images), model.eval()(images))
        assert trainable(loaded) == (trainable(model) if train else {})


@each(*(method for method in WHOLE if method.name not in ("head", "bn_head")))
def test_without_a_head_only_the_method_itself_trains(method):
    method = method.at(rank_of(method))
    model = method.adapt(_detecting(method), seed=0)
    assert trainable(model) == method.expected_trainable(_detecting(method))
    assert trainable(model)


@each(HEAD, BN_HEAD)
def test_a_method_that_trains_only_heads_is_unsupported_without_one(method):
    with pytest.raises(UnsupportedCaseError, match=f"{method.name} trains only a head, and no"):
        method.at().adapt(_detecting(), seed=0)


class Tied(nn.Module):
    """A head that shares a whole layer with the backbone, and its weight with an embedding."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(8, 8)
        self.shared = nn.Linear(8, 8)
        self.own = nn.Linear(8, 8)
        self.head = nn.Sequential(self.shared, nn.Linear(8, 8, bias=False))
        self.head[1].weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(self.own(self.shared(self.tokens(tokens))))


def test_what_a_head_shares_trains_in_full_under_its_first_name(tmp_path):
    method, base = LORA.at(2, heads=("head",)), Tied()
    expected = method.expected_trainable(Tied())
    model = method.adapt(base, seed=0)
    assert trainable(model) == expected
    plain = {name.removeprefix("base_model.model.") for name in expected if "lora" not in name}
    assert plain == {"tokens.weight", "shared.weight", "shared.bias"}
    with torch.no_grad():
        base.tokens.weight += 1
    method.save(model, tmp_path)
    loaded = method.load(Tied(), tmp_path, trainable=False)
    changed = loaded.get_parameter("base_model.model.tokens.weight")
    assert torch.equal(changed, base.tokens.weight)


@each(*ALL)
def test_the_numerics_of_a_method_are_those_that_the_policy_has_bounds_for(method):
    assert method.numerics == numerics_of_method(method.name)
    assert method.numerics in {"usual", "bfloat16", *Policy.fingerprint_bounds}
