"""Causes: what tells two findings apart, and what does not."""

import pytest
from fuzz_examples import example, failure, layer

from peft_fuzz import acts as do
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
    ((example(network={"dtype": "bfloat16"}), failure()), ("half precision",)),
    ((example(network={"dtype": "float16"}), failure()), ("half precision",)),
    ((example(autocast=False), failure()), ("autocast_adapter_dtype=False",)),
    ((example(settings={"use_dora": True}), failure()), ("setting use_dora",)),
    ((example(settings={"init": "pissa"}), failure()), ("setting init=pissa",)),
    ((example(adapters=PAIR, acts=(do.Add(adapter="other"), do.Merge())), failure()),
     ("several adapters",)),
    ((example(acts=(do.Fill(), do.Delete(adapter="default"), do.Merge())), failure(act=2)),
     ("after delete",)),
    ((example(acts=(do.Mode(training=True), do.Merge())), failure()), ("training mode",)),
    ((example(layer(name="net.weight")), failure()), ("nested name",)),
    ((example(layer(name="a.b.c"), adapters=(Adapter(name="b", settings={}),)), failure()),
     ("adapter named as a layer", "nested name")),
    ((example(layer(name="b"), acts=(do.LoadBeside(adapter="default", name="b"),)), failure()),
     ("adapter named as a layer", "several adapters")),
]  # fmt: skip


@pytest.mark.parametrize(("failing", "traits"), TRAITS)
def test_the_traits_of_an_example_are_what_it_needs_beyond_the_plainest(failing, traits):
    found = cause_of(*failing).traits
    assert set(traits) <= set(found)
    assert bool(traits) == bool(found)


def last(*acts, check="frozen", **fields):
    error = fields.pop("error", {})
    return cause_of(example(acts=acts, **fields), failure(check, act=len(acts) - 1, **error))


MERGED = (do.Fill(), do.Merge())
PADDED = layer("conv2d", padding_mode="reflect")
DORA = {"settings": {"use_dora": True}}
HALF = {"network": {"dtype": "bfloat16"}}
COPIES, BIASES = {"settings": {"modules_to_save": ["layer1"]}}, {"settings": {"bias": "all"}}
FIRST = Adapter(name="default", settings={"target_modules": ["layer0"]})
BACK = (do.Unmerge(), do.Disable(), do.Activate(adapters=("default",)))


def merged(*layers, check="merged", **fields):
    return cause_of(example(*layers, **fields), failure(check))


def raised(act=None, error="TypeError", where="a:f"):
    acts = MERGED if act is None else (act,)
    return last(*acts, check="exception", error={"error": error, "where": where})


def pair(settings):
    both = (FIRST, Adapter(name="other", settings=settings))
    return last(do.Add(adapter="other"), adapters=both)


EXPLAINED = [
    # The same, and with more than it needs.
    (merged(CONV), merged(CONV)),
    (merged(layer("conv1d")), merged(layer("conv3d"))),
    (merged(), merged(CONV, **DORA)),
    # What a function raises, whichever act calls it.
    (raised(do.Merge(), where="tuners.lora.layer:merge"),
     raised(do.Unload(merge=True), where="tuners.lora.layer:merge")),
    # A call costs the same after every act that does not merge.
    (last(check="cost"),
     last(*MERGED[1:], do.Unmerge(), do.Disable(), do.Enable(), do.SaveLoad(), check="cost")),
    # A network that is converted to half precision is in half precision.
    (last(do.Add(adapter="other"), adapters=PAIR, **HALF),
     last(do.Convert(dtype="float16"), do.Add(adapter="other"), adapters=PAIR)),
    # DoRA has the causes of LoRA, whose layers it runs.
    (merged(PADDED), merged(PADDED, method="dora")),
    # What fills an adapter does not matter to what a call costs or computes.
    *(
        pair
        for check in ("cost", "function")
        for act in (do.Fill(), do.Train(), do.Enable(), do.Activate(adapters=("default",)))
        for pair in [
            (last(check=check), last(act, check=check)),
            (last(act, check=check), last(check=check)),
        ]
    ),
    # What unmerging leaves is one cause, whichever act unmerges.
    *(
        (last(do.Merge(), one, check=check), last(do.Merge(), other, check=check))
        for check in ("layout", "unmerged")
        for one in BACK
        for other in BACK
    ),
]  # fmt: skip
APART = [
    # Without what it needs.
    (merged(layer("conv3d")), merged(layer("conv1d"))),
    (merged(**DORA), merged()),
    (merged(PADDED), merged(layer("conv2d", groups=4))),
    (last(do.Convert(dtype="float16"), do.Add(adapter="other"), adapters=PAIR),
     last(do.Add(adapter="other"), adapters=PAIR, **HALF)),
    (last(do.Add(adapter="other"), adapters=PAIR, **HALF),
     last(do.Convert(dtype="float32"), do.Add(adapter="other"), adapters=PAIR)),
    # Failing otherwise.
    (merged(), merged(check="unmerged")),
    (merged(), cause_of(example(), failure(act=0))),
    (merged(), merged(method="loha")),
    (raised(), raised(error="ValueError")),
    (raised(), raised(where="a:g")),
    (raised(do.Merge(), where=None), raised(do.Unload(merge=True), where=None)),
    (last(check="cost"), last(do.Merge(), check="cost")),
    (last(check="function"), last(do.Merge(), check="function")),
    (last(do.Fill()), last(do.Train())),
    # Without a merge nothing is taken out; and other checks are not about base weights.
    (last(do.Disable(), check="layout"), last(do.Merge(), do.Disable(), check="layout")),
    (last(do.Merge(), do.Unmerge()), last(do.Merge(), do.Disable())),
    (merged(PADDED, method="dora"), merged(PADDED)),
    (merged(PADDED), merged(PADDED, method="loha")),
    (merged(PADDED), merged(method="dora")),
    # What a refused act leaves is a cause of its own.
    (pair({"target_modules": ["nowhere"]}), pair({"target_modules": ["layer0"]})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "other", "explains"),
    [*((*pair, True) for pair in EXPLAINED), *((*pair, False) for pair in APART)],
)
def test_a_cause_explains_what_fails_alike_and_has_all_that_it_needs(known, other, explains):
    assert is_known(other, [known]) is explains


MANY = (do.Fill(seed=5), do.Merge(), do.Delete(adapter="default"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Leaving a block of disabled adapters is enabling; what fails inside it, disabling.
        (
            last(do.SaveLoad(), do.Disable(within=True)),
            last(do.SaveLoad(), do.Disable(), do.Enable()),
        ),
        (last(do.Disable(within=True), do.Merge()), last(do.Disable(), do.Enable(), do.Merge())),
        (last(do.Disable(within=True), check="disabled"), last(do.Disable(), check="disabled")),
        (last(do.Disable(within=True), check="exception"), last(do.Disable(), check="exception")),
        # A merge that is refused changes no cost.
        (
            last(do.Fill(), do.Merge(safe=True, broken=True), check="cost"),
            last(do.Fill(), check="cost"),
        ),
        # Acts after the failure and numbers make no cause.
        (merged(acts=MANY, settings={"r": 7}), merged()),
    ],
)
def test_acts_that_do_the_same_are_one_cause(one, other):
    assert one == other


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        (last(check="cost"), last(do.Fill(), check="cost"), True),
        (last(check="function"), last(do.Fill(), check="function"), True),
        *(
            (last(do.Merge(), BACK[0], check=c), last(do.Merge(), act, check=c), True)
            for c in ("layout", "unmerged")
            for act in BACK
        ),
        # One function failing in two methods; without one, what needs the same.
        (
            raised(),
            cause_of(example(method="loha"), failure("exception", error="TypeError", where="a:f")),
            True,
        ),
        (merged(PADDED, **DORA), merged(PADDED, method="loha"), True),
        (merged(PADDED, **DORA), merged(CONV, method="loha"), False),
        (merged(**COPIES), merged(**COPIES, method="loha"), True),
    ],
)
def test_groups_are_of_one_defect_in_all_methods(one, other, are_one):
    assert (one.group == other.group) is are_one


IN_SHARED_CODE = failure("exception", error="KeyError", where="tuners.tuners_utils:delete")
IN_LORA = failure("exception", error="KeyError", where="tuners.lora.layer:merge")
TWO = ("loha", "ia3")


@pytest.mark.parametrize(
    ("failed", "methods", "needed", "fields", "known"),
    [
        (IN_SHARED_CODE, TWO, {}, {}, True),
        (failure("leftover"), TWO, {}, {}, True),
        (failure("exception", error="TypeError"), TWO, {}, {}, True),
        # One other method may have the same defect in code of its own.
        (IN_SHARED_CODE, ("loha",), {}, {}, False),
        (IN_SHARED_CODE, ("loha", "loha"), {}, {}, False),
        # Each method has its own formula, and its own modules.
        (failure("function"), TWO, {}, {}, False),
        (failure("merged"), TWO, {}, {}, False),
        (IN_LORA, TWO, {}, {}, False),
        # What it needs, and what a shared setting causes.
        (IN_SHARED_CODE, TWO, HALF, HALF, True),
        (IN_SHARED_CODE, TWO, HALF, {}, False),
        (failure("loaded"), TWO, COPIES, COPIES, True),
        (failure("loaded"), TWO, COPIES, {}, False),
        (failure("loaded"), TWO, BIASES, BIASES, True),
        (failure("loaded"), TWO, BIASES, {}, False),
    ],
)
def test_a_failure_of_shared_code_is_known_by_two_other_methods_that_need_no_more(
    failed, methods, needed, fields, known
):
    others = []
    for number, method in enumerate(methods):
        settings = {**needed.get("settings", {}), **({} if needed else {f"of_{number}": 1})}
        one = example(method=method, network=dict(needed.get("network", {})), settings=settings)
        others.append(cause_of(one, failed))
    one = example(network=dict(fields.get("network", {})), settings=fields.get("settings", {}))
    assert is_known(cause_of(one, failed), others) is known


def test_the_name_of_a_cause_can_be_a_file_name_and_does_not_change():
    assert cause_of(example(CONV), failure()).name == "lora-merged-55108fc8"
