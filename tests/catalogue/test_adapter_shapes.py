"""Where adapters go and what they are: layers, shapes at any rank, and the product they add."""

import pytest
from tiny_methods import One, each, method_named, trainable
from torch import nn

from peft_regress.catalogue.methods import ADAPTERS
from peft_regress.catalogue.methods.targets import Targets, normalization_layers

FLOAT32 = tuple(method_named(m.name) for m in ADAPTERS if m.base_dtype == "float32")
PRINCIPAL = (method_named("pissa"), method_named("olora"))
GROUPED = (method_named("lora-grouped"), method_named("dora-grouped"))
METHODS = tuple(m for m in FLOAT32 if not m.targets.normalization and m not in GROUPED)
STEM = "base_model.model."

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:The symmetric initialization can NOT:UserWarning"),
]


def _added(method, rank, layer):
    """Adapt a layer and return what trains in it, by the names below its own."""
    model = method.at(rank, heads=("head",)).adapt(One(layer), seed=0)
    stem = f"{STEM}layer."
    return {n.removeprefix(stem): s for n, s in trainable(model).items() if n.startswith(stem)}


class _Layers(nn.Module):
    def __init__(self, *, linear):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3)
        self.pointwise = nn.Conv2d(8, 8, kernel_size=1)
        self.depthwise = nn.Conv2d(8, 8, kernel_size=3, groups=8)
        if linear:
            self.linear = nn.Linear(8, 12)
        self.head = nn.Linear(8, 4)


@pytest.mark.parametrize(
    ("options", "linear", "found"),
    [
        ({}, True, ["conv", "pointwise", "linear"]),
        ({"grouped": True}, True, ["conv", "pointwise", "depthwise", "linear"]),
        ({"grouped": True, "ungrouped": False}, True, ["depthwise"]),
        ({"ungrouped": False}, True, []),
        ({"linear_first": True}, True, ["linear"]),
        ({"linear_first": True}, False, ["conv", "pointwise"]),
        ({"block_size": 4}, True, ["pointwise", "linear"]),
        ({"block_size": 9, "grouped": True}, True, ["conv", "depthwise"]),
        ({"block_size": 64}, True, []),
        ({"most_inputs": 8}, True, ["pointwise", "linear"]),
        ({"most_inputs": 27}, True, ["conv", "pointwise", "linear"]),
        ({"most_inputs": 26, "block_size": 9, "grouped": True}, True, ["depthwise"]),
        ({"normalization": True}, True, []),
    ],
    ids=str,
)
def test_rule_finds_its_layers_in_the_models_order(options, linear, found):
    rule = Targets(description="", **options)
    assert list(rule.find(_Layers(linear=linear), heads=("head",))) == found


def test_normalization_layers_are_those_with_a_weight_of_their_own():
    found = {
        "batch": nn.BatchNorm2d(4),
        "batch_1d": nn.BatchNorm1d(4),
        "sync": nn.SyncBatchNorm(4),
        "instance": nn.InstanceNorm2d(4, affine=True),
        "layer": nn.LayerNorm(4),
        "group": nn.GroupNorm(2, 4),
        "rms": nn.RMSNorm(4),
    }
    others = {
        "no weight": nn.BatchNorm2d(4, affine=False),
        "instance, no weight": nn.InstanceNorm2d(4),
        "layer, no weight": nn.LayerNorm(4, elementwise_affine=False),
        "local response": nn.LocalResponseNorm(2),
        "conv": nn.Conv2d(4, 4, 1),
    }
    model = nn.ModuleDict({**found, **others})
    assert list(normalization_layers(model, heads=())) == [*found]
    assert normalization_layers(model, heads=("group",)).keys() == found.keys() - {"group"}


@each(*METHODS)
def test_an_adapter_has_the_shapes_of_its_definition(method, snapshot):
    """At rank 2 on 8 outputs and 12 inputs with a 3 x 3 kernel, and on 12 outputs and 8 inputs."""
    found = {}
    for kind, layer in {"conv": nn.Conv2d(12, 8, 3), "linear": nn.Linear(8, 12)}.items():
        if method in PRINCIPAL and kind == "conv":  # refused by peft
            continue
        found[kind] = method.shapes(layer, 2)
        assert _added(method, 2, layer) == found[kind]
    assert found == snapshot


def test_of_a_grouped_convolution_a_has_no_groups_and_b_has_those_of_the_layer():
    """4 groups of 3 inputs and 6 outputs each, at rank 8."""
    layer = nn.Conv2d(12, 24, kernel_size=3, groups=4)
    by_hand = {"lora_A.default.weight": (8, 12, 3, 3), "lora_B.default.weight": (24, 2, 1, 1)}
    magnitude = {"lora_magnitude_vector.default.weight": (1, 24, 1, 1)}
    lora, dora = GROUPED
    assert _added(lora, 8, layer) == by_hand
    assert _added(dora, 8, layer) == {**by_hand, **magnitude}


LAYERS = {
    "wide": lambda: nn.Conv2d(20, 6, kernel_size=3, padding=1),
    "tall": lambda: nn.Conv2d(4, 30, kernel_size=5, stride=2),
    "pointwise": lambda: nn.Conv2d(16, 7, kernel_size=1),
    "large": lambda: nn.Conv2d(64, 128, kernel_size=3),
    "one input": lambda: nn.Conv2d(1, 1, kernel_size=2),
    "grouped": lambda: nn.Conv2d(12, 24, kernel_size=3, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, kernel_size=4, groups=16),
    "linear": lambda: nn.Linear(24, 10),
    "narrow": lambda: nn.Linear(4, 1),
    "prime": lambda: nn.Linear(12, 13),
}


@pytest.mark.parametrize("layer", LAYERS)
@each(*METHODS)
def test_shapes_hold_for_every_layer_and_at_ranks_beyond_its_own(method, layer):
    """Each method with a rank meets each of four at least twice, and so does each layer."""
    turn = METHODS.index(method) + list(LAYERS).index(layer)
    chosen = method.at((1, 3, 8, 40)[turn % 4] if method.ranks else None, heads=("head",))
    model = One(LAYERS[layer]())
    if not method.targets.find(model, heads=("head",)):
        assert layer in {"grouped", "depthwise"} or not method.ranks
        return
    expected = chosen.expected_trainable(model)
    if method in PRINCIPAL and not isinstance(model.layer, nn.Linear):
        with pytest.raises(ValueError, match="Unknown initialization"):
            chosen.adapt(model, seed=0)
        return
    assert trainable(chosen.adapt(model, seed=0)) == expected
