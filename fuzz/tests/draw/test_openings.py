"""What chance seldom draws is among the openings of lives, and makes sense there."""

import pytest
from hypothesis import find
from msgspec.structs import replace

from peft_fuzz.acts import Delete, HotSwap, Merge, Unload
from peft_fuzz.acts.act import Choices, follow
from peft_fuzz.example import Example
from peft_fuzz.methods import METHODS
from peft_fuzz.networks.network import Adapter, Layer, Network
from peft_fuzz.oracle.plan import Plan, adapted
from peft_fuzz.search.draw.examples import allowed, openings
from peft_fuzz.search.draw.networks import networks

GROUPED = Layer(
    name="layer0", kind="conv2d", inputs=6, outputs=6, kernel=(1, 1), groups=6, bias=False
)
HEAD = Layer(name="head", kind="linear", inputs=6, outputs=6)


def lives(method="lora", *, copies=False):
    settings = {"target_modules": ["layer0"], "r": 6}
    others = {**settings, "modules_to_save": ["head"]} if copies else settings
    adapters = (Adapter(name="default", settings=settings), Adapter(name="other", settings=others))
    network = Network(layers=(GROUPED, HEAD), sizes=(2, 2))
    one = Example(network=network, method=method, adapters=adapters)
    kind = METHODS[method]
    each = openings(Choices.of(one, kind))
    return [replace(one, acts=allowed(one, kind, opening)) for opening in each]


def happens(one, wanted):
    plan = Plan.start(one, METHODS[one.method].abilities)
    for act in one.acts:
        if wanted(plan, act):
            return True
        plan = follow(plan, act)
    return False


def grouped(plan):
    layers = {one.name: one for one in plan.on.network.layers}
    named = adapted(plan.on.adapters[0].settings, plan.on.network)
    return any(layers[name].groups > 1 for name in named)


def prepares(act):
    return isinstance(act, HotSwap) and bool(act.target_rank)


NEEDS_COPIES = {
    "copies of a deleted adapter": lambda plan, act: (
        isinstance(act, Delete)
        and act.adapter in plan.settings
        and len(plan.settings) > 1
        and bool(plan.copies(act.adapter))
    ),
    "copies beside an unloaded adapter": lambda plan, act: (
        isinstance(act, Unload)
        and any(plan.copies(name) for name in {*plan.settings} - {*plan.active})
    ),
}
NEEDS_AN_ABILITY = {
    "a frozen adapter prepared for swaps": lambda plan, act: prepares(act) and not plan.trainable,
    "a grouped convolution prepared for swaps": lambda plan, act: prepares(act) and grouped(plan),
    "a swap of a merged adapter": lambda plan, act: (
        isinstance(act, HotSwap) and act.adapter in plan.merged
    ),
    "both are merged in turn": lambda plan, act: (
        isinstance(act, Merge) and bool(plan.merged) and bool({*act.adapters} - {*plan.merged})
    ),
}


def test_openings_have_what_copies_and_abilities_need_and_only_what_a_method_can_do():
    without, copying = lives(), lives(copies=True)
    for name, wanted in NEEDS_COPIES.items():
        assert any(happens(one, wanted) for one in copying), name
        assert not any(happens(one, wanted) for one in without), name
    for name, wanted in NEEDS_AN_ABILITY.items():
        assert any(happens(one, wanted) for one in without), name

    acts = [act for one in lives("oft") for act in one.acts]
    assert acts
    assert not any(isinstance(act, HotSwap) for act in acts)


@pytest.mark.parametrize("kind", ["linear", "transposed_linear"])
def test_a_layer_may_have_two_names(kind):
    network = find(networks({kind}), lambda one: any(layer.same_as for layer in one.layers))
    assert network.layers[-1].same_as
    assert network.layers[-1].inputs == network.layers[-1].outputs
