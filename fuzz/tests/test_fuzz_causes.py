"""Causes: what tells two findings apart, and what does not."""

from __future__ import annotations

import pytest
from fuzz_examples import example, failure, layer

from peft_fuzz.acts import (
    Activate,
    Add,
    Convert,
    Delete,
    Disable,
    Enable,
    Fill,
    LoadBeside,
    Merge,
    Mode,
    SaveLoad,
    Train,
    Unload,
    Unmerge,
)
from peft_fuzz.networks.network import Adapter
from peft_fuzz.search.causes import cause_of, is_known

CONV = layer("conv2d")
PAIR = (Adapter(name="default", settings={}), Adapter(name="other", settings={}))

TRAITS = [
    ((example(), failure()), ()),
    ((example(settings={"r": 2, "lora_alpha": 4}), failure()), ()),
    ((example(CONV), failure()), ("convolution", "over 2d")),
    ((example(layer("conv1d", groups=2)), failure()), ("convolution", "groups")),
    ((example(layer("conv3d", kernel=(1, 1, 1))), failure()), ("kernel of one", "over 3d")),
    ((example(layer("conv2d", kernel=(3, 1))), failure()), ("uneven kernel",)),
    ((example(layer("conv2d", padding_mode="reflect")), failure()), ("padding mode",)),
    ((example(layer("conv2d", dilation=(1, 2))), failure()), ("dilation",)),
    ((example(layer(bias=False)), failure()), ("no bias",)),
    ((example(layer("transposed_linear")), failure()), ("transposed linear",)),
    ((example(layer("attention", by_keyword=True)), failure()), ("called by keyword",)),
    ((example(network={"dtype": "bfloat16"}), failure()), ("half precision",)),
    ((example(network={"dtype": "float16"}), failure()), ("half precision",)),
    ((example(autocast=False), failure()), ("autocast_adapter_dtype=False",)),
    ((example(settings={"use_dora": True}), failure()), ("setting use_dora",)),
    ((example(settings={"init": "pissa"}), failure()), ("setting init=pissa",)),
    ((example(adapters=PAIR, acts=(Add(adapter="other"), Merge())), failure()),
     ("several adapters",)),
    ((example(acts=(Fill(), Delete(adapter="default"), Merge())), failure(act=2)),
     ("after delete",)),
    ((example(acts=(Mode(training=True), Merge())), failure()), ("training mode",)),
    ((example(layer(name="net.weight")), failure()), ("nested name", "odd name")),
    ((example(layer(name="head"), layer(name="head2")), failure()),
     ("a name that begins another name",)),
    ((example(layer(name="a.b.c"), adapters=(Adapter(name="b", settings={}),)), failure()),
     ("adapter named as a layer", "nested name")),
    ((example(layer(name="b"), acts=(LoadBeside(adapter="default", name="b"),)), failure()),
     ("adapter named as a layer", "several adapters")),
]  # fmt: skip


@pytest.mark.parametrize(("failing", "traits"), TRAITS)
def test_the_traits_of_an_example_are_what_it_needs_beyond_the_plainest(failing, traits) -> None:
    found = cause_of(*failing).traits
    assert set(traits) <= set(found)
    assert bool(traits) == bool(found)


@pytest.mark.parametrize(
    ("known", "other", "explained"),
    [
        # The same, and with more than it needs.
        ((example(CONV), failure()), (example(CONV), failure()), True),
        ((example(layer("conv1d")), failure()), (example(layer("conv3d")), failure()), True),
        ((example(), failure()), (example(CONV, settings={"use_dora": True}), failure()), True),
        # Without what it needs.
        ((example(layer("conv3d")), failure()), (example(layer("conv1d")), failure()), False),
        ((example(settings={"use_dora": True}), failure()), (example(), failure()), False),
        (
            (example(layer("conv2d", padding_mode="reflect")), failure()),
            (example(layer("conv2d", groups=4)), failure()),
            False,
        ),
        # Failing otherwise.
        ((example(), failure()), (example(), failure("unmerged")), False),
        ((example(), failure()), (example(), failure(act=0)), False),
        ((example(), failure()), (example(method="loha"), failure()), False),
        (
            (example(), failure("exception", error="TypeError", where="a:f")),
            (example(), failure("exception", error="ValueError", where="a:f")),
            False,
        ),
        (
            (example(), failure("exception", error="TypeError", where="a:f")),
            (example(), failure("exception", error="TypeError", where="a:g")),
            False,
        ),
    ],
)
def test_a_cause_explains_what_fails_alike_and_has_all_that_it_needs(
    known, other, explained
) -> None:
    assert is_known(cause_of(*other), [cause_of(*known)]) is explained


@pytest.mark.parametrize("check", ["cost", "function"])
def test_what_a_call_costs_or_computes_is_one_cause_whatever_filled_the_adapter(check) -> None:
    acts = (Fill(), Train(), Enable(), Activate(adapters=("default",)))
    wrapped = cause_of(example(acts=()), failure(check, act=-1))
    filled = [cause_of(example(acts=(act,)), failure(check, act=0)) for act in acts]
    assert all(is_known(one, [wrapped]) and is_known(wrapped, [one]) for one in filled)
    assert {one.group for one in filled} == {wrapped.group}
    merged = cause_of(example(acts=(Merge(),)), failure(check, act=0))
    assert not is_known(merged, [wrapped])


@pytest.mark.parametrize(("where", "is_one"), [("tuners.lora.layer:merge", True), (None, False)])
def test_what_a_function_raises_is_one_cause_whichever_act_calls_it(where, is_one) -> None:
    raised = failure("exception", act=0, error="TypeError", where=where)
    one, other = (cause_of(example(acts=(act,)), raised) for act in (Merge(), Unload(merge=True)))
    assert is_known(other, [one]) is is_known(one, [other]) is is_one


def test_a_call_costs_the_same_after_every_act_that_does_not_merge() -> None:
    wrapped = cause_of(example(CONV, acts=()), failure("cost", act=-1))
    acts = (Merge(), Unmerge(), Disable(), Enable(), SaveLoad())
    assert is_known(cause_of(example(CONV, acts=acts), failure("cost", act=4)), [wrapped])
    assert not is_known(cause_of(example(CONV, acts=acts), failure("cost", act=0)), [wrapped])


def last(*acts, check="frozen", **fields):
    """Return the cause of an example that fails after its last act."""
    return cause_of(example(acts=acts, **fields), failure(check, act=len(acts) - 1))


def test_leaving_a_block_of_disabled_adapters_is_enabling() -> None:
    within = last(SaveLoad(), Disable(within=True))
    assert within == last(SaveLoad(), Disable(), Enable())
    assert (within.act, within.traits) == ("enable", ("after disable", "after save_load"))
    assert last(Disable(within=True), Merge()) == last(Disable(), Enable(), Merge())


@pytest.mark.parametrize("check", ["disabled", "exception"])
def test_what_fails_inside_the_block_fails_after_disabling(check) -> None:
    assert last(Disable(within=True), check=check) == last(Disable(), check=check)
    assert last(Disable(within=True), check=check).act == "disable"


@pytest.mark.parametrize("check", ["layout", "unmerged"])
def test_what_unmerging_leaves_is_one_cause_whichever_act_unmerges(check) -> None:
    acts = (Unmerge(), Disable(), Activate(adapters=("default",)))
    causes = [last(Merge(), act, check=check) for act in acts]
    assert all(is_known(one, [other]) for one in causes for other in causes)
    assert len({one.group for one in causes}) == 1
    # Without a merge, nothing is taken out; and other checks are not about base weights.
    assert not is_known(last(Merge(), acts[1], check=check), [last(acts[1], check=check)])
    assert not is_known(last(Merge(), acts[1], check="frozen"), [last(Merge(), acts[0])])


def test_a_network_that_is_converted_to_half_precision_is_in_half_precision() -> None:
    half = last(Add(adapter="other"), adapters=PAIR, network={"dtype": "bfloat16"})
    to_half, to_full = (
        last(Convert(dtype=dtype), Add(adapter="other"), adapters=PAIR)
        for dtype in ("float16", "float32")
    )
    assert is_known(to_half, [half])
    assert not is_known(half, [to_half])
    assert not is_known(to_full, [half])


def test_what_a_refused_act_leaves_is_a_cause_of_its_own() -> None:
    targets = {"target_modules": ["layer0"]}
    first = Adapter(name="default", settings=targets)
    refused, added = (
        last(Add(adapter="other"), adapters=(first, Adapter(name="other", settings=settings)))
        for settings in ({"target_modules": ["nowhere"]}, targets)
    )
    assert refused.traits == ("a refused act", "several adapters")
    assert added.traits == ("several adapters",)
    assert not is_known(added, [refused])


def test_dora_has_the_causes_of_lora_whose_layers_it_runs() -> None:
    padded = layer("conv2d", padding_mode="reflect")
    lora, dora, loha = (
        cause_of(example(padded, method=method), failure()) for method in ("lora", "dora", "loha")
    )
    assert is_known(dora, [lora])
    assert not is_known(lora, [dora])
    assert not is_known(loha, [lora])
    assert not is_known(cause_of(example(method="dora"), failure()), [lora])


def test_the_cost_after_a_refused_merge_is_that_before_it() -> None:
    refused = example(acts=(Fill(), Merge(safe=True, broken=True)))
    assert cause_of(refused, failure("cost")) == cause_of(
        example(acts=(Fill(),)), failure("cost", act=0)
    )


def test_other_checks_after_other_acts_are_other_causes() -> None:
    one, two = (
        cause_of(example(acts=(act,)), failure("frozen", act=0)) for act in (Fill(), Train())
    )
    assert not is_known(one, [two])


IN_SHARED_CODE = failure("exception", error="KeyError", where="tuners.tuners_utils:delete")


@pytest.mark.parametrize(
    ("failed", "methods", "known"),
    [
        (IN_SHARED_CODE, ("loha", "ia3"), True),
        (failure("leftover"), ("loha", "ia3"), True),
        (failure("exception", error="TypeError"), ("loha", "ia3"), True),
        # One other method may have the same defect in code of its own.
        (IN_SHARED_CODE, ("loha",), False),
        (IN_SHARED_CODE, ("loha", "loha"), False),
        # Each method has its own formula, and its own modules.
        (failure("function"), ("loha", "ia3"), False),
        (failure("merged"), ("loha", "ia3"), False),
        (failure("exception", error="KeyError", where="tuners.lora.layer:merge"),
         ("loha", "ia3"), False),
    ],
)  # fmt: skip
def test_a_failure_of_shared_code_is_known_by_two_other_methods(failed, methods, known) -> None:
    others = [
        cause_of(example(method=method, settings={f"of_{number}": 1}), failed)
        for number, method in enumerate(methods)
    ]
    assert is_known(cause_of(example(), failed), others) is known


def test_a_failure_of_shared_code_is_not_known_without_what_it_needs() -> None:
    half = {"dtype": "bfloat16"}
    others = [
        cause_of(example(method=method, network=dict(half)), IN_SHARED_CODE)
        for method in ("loha", "ia3")
    ]
    assert is_known(cause_of(example(network=dict(half)), IN_SHARED_CODE), others)
    assert not is_known(cause_of(example(), IN_SHARED_CODE), others)


@pytest.mark.parametrize("shared", [{"modules_to_save": ["layer1"]}, {"bias": "all"}])
def test_what_a_shared_setting_causes_explains_no_failure_without_it(shared) -> None:
    failed = failure("loaded")
    others = [cause_of(example(method=m, settings=shared), failed) for m in ("loha", "ia3")]
    assert is_known(cause_of(example(settings=shared), failed), others)
    assert not is_known(cause_of(example(), failed), others)


def test_acts_after_the_failure_and_numbers_make_no_cause() -> None:
    longer = example(acts=(Fill(seed=5), Merge(), Delete(adapter="default")), settings={"r": 7})
    assert cause_of(longer, failure()) == cause_of(example(), failure())


def test_one_function_failing_in_two_methods_is_one_group() -> None:
    raised = failure("exception", error="TypeError", where="tuners.tuners_utils:merge")
    one, two = cause_of(example(), raised), cause_of(example(method="loha"), raised)
    assert one.group == two.group
    assert one.name != two.name


def test_without_an_exception_the_same_needs_are_one_group_and_settings_make_none() -> None:
    padded = layer("conv2d", padding_mode="reflect")
    one = cause_of(example(padded, settings={"use_dora": True}), failure())
    other = cause_of(example(padded, method="loha"), failure())
    assert one.group == other.group
    assert one.group != cause_of(example(CONV, method="loha"), failure()).group


def test_copies_of_modules_fail_as_one_group_in_all_methods() -> None:
    saved = {"modules_to_save": ["layer1"]}
    one, two = (cause_of(example(method=m, settings=saved), failure()) for m in ("lora", "loha"))
    assert one.group == two.group


def test_the_name_of_a_cause_can_be_a_file_name_and_does_not_change() -> None:
    assert cause_of(example(CONV), failure()).name == "lora-merged-55108fc8"
