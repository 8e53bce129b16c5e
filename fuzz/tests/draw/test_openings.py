"""What chance seldom draws is among the openings of lives, and makes sense there."""

from __future__ import annotations

import pytest
from hypothesis import find

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
    saved = {"modules_to_save": ["head"]} if copies else {}
    one = Example(
        network=Network(layers=(GROUPED, HEAD), sizes=(2, 2)),
        method=method,
        adapters=(
            Adapter(name="default", settings=settings),
            Adapter(name="other", settings={**settings, **saved}),
        ),
    )
    kind = METHODS[method]
    return [
        Example(
            network=one.network,
            method=method,
            adapters=one.adapters,
            acts=allowed(one, kind, opening),
        )
        for opening in openings(Choices.of(one, kind))
    ]


def happens(one, wanted):
    plan = Plan.start(one, METHODS[one.method].abilities)
    for act in one.acts:
        if wanted(plan, act):
            return True
        plan = follow(plan, act)
    return False


def _copied(plan):
    return any(plan.copies(name) for name in plan.settings)


def copies_of_a_deleted_adapter(plan, act):
    is_one = isinstance(act, Delete) and act.adapter in plan.settings
    return is_one and len(plan.settings) > 1 and bool(plan.copies(act.adapter))


def copies_beside_an_unloaded_adapter(plan, act):
    others = {*plan.settings} - {*plan.active}
    return isinstance(act, Unload) and any(plan.copies(name) for name in others)


def a_frozen_adapter_prepared_for_swaps(plan, act):
    return isinstance(act, HotSwap) and bool(act.target_rank) and not plan.trainable


def a_grouped_convolution_prepared_for_swaps(plan, act):
    layers = {one.name: one for one in plan.on.network.layers}
    named = adapted(plan.on.adapters[0].settings, plan.on.network)
    grouped = any(layers[name].groups > 1 for name in named)
    return isinstance(act, HotSwap) and bool(act.target_rank) and grouped


def a_swap_of_a_merged_adapter(plan, act):
    return isinstance(act, HotSwap) and act.adapter in plan.merged


def both_are_merged_in_turn(plan, act):
    return isinstance(act, Merge) and bool(plan.merged) and bool({*act.adapters} - {*plan.merged})


@pytest.mark.parametrize(
    "wanted",
    [
        copies_of_a_deleted_adapter,
        copies_beside_an_unloaded_adapter,
    ],
    ids=lambda function: function.__name__,
)
def test_openings_have_what_copies_need(wanted):
    assert any(happens(one, wanted) for one in lives(copies=True))
    assert not any(happens(one, wanted) for one in lives(copies=False))


@pytest.mark.parametrize(
    "wanted",
    [
        a_frozen_adapter_prepared_for_swaps,
        a_grouped_convolution_prepared_for_swaps,
        a_swap_of_a_merged_adapter,
        both_are_merged_in_turn,
    ],
    ids=lambda function: function.__name__,
)
def test_openings_have_what_an_ability_needs(wanted):
    assert any(happens(one, wanted) for one in lives())


def test_openings_have_only_what_a_method_can_do():
    acts = [act for one in lives("oft") for act in one.acts]
    assert acts
    assert not any(isinstance(act, HotSwap) for act in acts)


@pytest.mark.parametrize("kind", ["linear", "transposed_linear"])
def test_a_layer_may_have_two_names(kind):
    network = find(networks({kind}), lambda one: any(layer.same_as for layer in one.layers))
    assert network.layers[-1].same_as
    assert network.layers[-1].inputs == network.layers[-1].outputs
