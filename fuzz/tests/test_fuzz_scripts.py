"""The scripts of findings: without this project they show the failure, or say that it is gone."""

from pathlib import Path

import pytest
from forked_scripts import ended
from fuzz_examples import example, failure, finding, layer, script
from msgspec.structs import replace

from peft_fuzz import acts as do
from peft_fuzz.networks.network import Adapter
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.run import run
from peft_fuzz.search.findings import read_corpus

PAIR = tuple(
    Adapter(name=name, settings={"r": 2, "target_modules": ["layer0"]})
    for name in ("default", "other")
)
CONV = {"network": {"sizes": (5, 5)}}
FAILING = {
    "gradient": example(
        layer("conv2d"),
        method="loha",
        acts=(do.Fill(),),
        settings={"use_effective_conv2d": True},
        **CONV,
    ),
    "dilation": example(layer("conv2d", dilation=(2, 2)), acts=(do.Fill(),), **CONV),
    "reflection": example(layer("conv2d", padding_mode="reflect"), **CONV),
    "loaded": example(acts=(do.SaveLoad(), do.Disable(within=True))),
}
"""Defects of peft 0.21.2, by the name of what is wrong."""
EVERY_ACT = (
    example(
        adapters=PAIR, network={"batch": 3},
        acts=(
            do.Fill(), do.Train(), do.Train(keep_optimizer=True), do.Add(adapter="other"),
            do.Activate(adapters=("other",)), do.Fill(seed=1),
            do.Train(),
            do.Merge(safe=True), do.Unmerge(), do.Disable(), do.Enable(), do.Disable(within=True),
            do.Activate(adapters=("default", "other")), do.Merge(), do.Unmerge(), do.Copy(),
            do.Activate(adapters=("other",)), do.Mode(training=True),
            do.Mode(training=False), do.SaveLoad(trainable=True),
            do.LoadBeside(adapter="default", name="third"), do.Delete(adapter="third"),
            do.Convert(dtype="bfloat16"), do.Unload(merge=True),
        ),
    ),
    example(
        acts=(do.Fill(), *(do.HotSwap(adapter="default", target_rank=rank) for rank in (16, None)))
    ),
)  # fmt: skip


def test_a_script_has_only_what_its_example_uses():
    text = script(finding(example(layer("conv2d", padding="same"), **CONV)))
    assert "peft_regress" not in text
    assert "nn.Conv2d(4, 4, 3, padding='same')" in text
    assert "model.merge_adapter()" in text
    assert "def train(" not in text
    assert "tempfile" not in text
    assert "original" not in text
    assert text.startswith('"""The output differs by 1.0.\n\nSeen with peft 0.21.2, torch 2.13.0.')


@pytest.mark.parametrize(
    ("kind", "dtype", "acts", "switched"),
    [
        ("conv2d", "bfloat16", (do.Fill(),), True),
        ("conv2d", "float32", (do.Fill(), do.Convert(dtype="float16")), True),
        ("conv2d", "float32", (do.Fill(), do.Convert(channels_last=True)), False),
        ("linear", "bfloat16", (do.Fill(),), False),
    ],
)
def test_convolutions_in_half_precision_run_without_onednn(kind, dtype, acts, switched):
    sizes = (5, 5) if kind == "conv2d" else ()
    one = example(layer(kind), acts=acts, network={"sizes": sizes, "dtype": dtype})
    text = script(finding(one, failure("merged", len(acts) - 1)))
    assert ("torch.backends.mkldnn.enabled = False" in text) == switched


def test_nested_odd_and_shared_names_are_code_and_a_message_cannot_end_the_docstring():
    failed = replace(failure(), message='a """ b \\" \n import os')
    layers = (
        layer(name="net.0.weight"),
        layer(name="copy", same_as="net.0.weight"),
        layer("embedding", name="default"),
    )
    text = script(finding(example(*layers), failed))
    assert "self.net._modules['0'].weight = nn.Linear(4, 4)" in text
    assert "self.copy = self.net._modules['0'].weight" in text
    compile(text, "script", "exec")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("act", [-1, 1])
def test_the_script_of_every_check_is_python(check, act):
    text = script(finding(failed=failure(check, act)))
    compile(text, "script", "exec")
    assert not [line for line in text.splitlines() if len(line) > 100]


@pytest.mark.parametrize(
    ("check", "message", "call"),
    [
        ("cost", "A forward pass needs 64 FLOPs, 48 more than the base; the formula needs 24 more.",
         "check_flops(original, model, x, allowed=24)"),
        ("saved_keys", "The file of default holds base_model.model.a.lora_A.other of other.",
         "check_saved(folder, 'base_model.model.a.lora_A.other', 'default', 'other')"),
        ("saved_keys", "The file of {print()} holds a of b.",
         "check_saved(folder + '/{print()}', 'a', '{print()}', 'b')"),
    ],
)  # fmt: skip
def test_what_a_message_says_is_what_the_script_expects(check, message, call):
    failed = replace(failure(check), message=message)
    assert call in script(finding(failed=failed))


@pytest.mark.parametrize(
    ("fields", "is_computed"),
    [
        ({}, True),
        ({"method": "oft"}, True),
        ({"method": "c3a"}, True),
        ({"method": "hira"}, True),
        ({"method": "vera"}, True),
        ({"method": "hra"}, False),
        ({"settings": {"lora_bias": True}}, False),
        ({"settings": {"modules_to_save": ["layer1"]}}, False),
        ({"settings": {"init_lora_weights": "pissa"}}, False),
        ({"settings": {"init_lora_weights": False}}, True),
    ],
)
def test_a_formula_that_the_script_does_not_compute_is_not_judged(fields, is_computed):
    text = script(finding(example(**fields), failure("function")))
    assert ("merged_by_hand(" in text) == is_computed
    assert ("does not compute" in text) != is_computed
    assert ("nothing differs" in text) == is_computed


def test_the_factors_of_ia3_are_multiplied_where_each_adapter_names_them():
    names = {"default": [], "other": ["layer0"]}
    adapters = tuple(
        Adapter(name=one, settings={"target_modules": ["layer0"], "feedforward_modules": forward})
        for one, forward in names.items()
    )
    text = script(finding(example(method="ia3", adapters=adapters), failure("function")))
    assert f"scaled_by_hand(model, original, x, {names})" in text


def exit_codes(folder, scripts):
    return {name: code for name, (code, _) in ended(folder, scripts).items()}


@pytest.mark.nightly
def test_every_script_of_the_corpus_shows_its_failure(tmp_path):
    scripts = {one.name: script(one) for one in read_corpus(Path(__file__).parents[1] / "corpus")}
    assert exit_codes(tmp_path / "scripts", scripts) == dict.fromkeys(scripts, 1)


SIZES = {"conv2d": (5, 5), "embedding": (3,)}
HOLDING = {
    "lora": ("linear", "transposed_linear", "conv2d", "embedding"),
    "dora": ("linear", "transposed_linear", "conv2d"),
    "hira": ("linear", "embedding"),
    **dict.fromkeys(("lokr", "loha", "oft", "vera", "hra", "ln_tuning"), ("linear",)),
}


@pytest.mark.slow
def test_scripts_show_findings_and_say_that_what_holds_does(tmp_path):
    scripts = {}
    for method, kinds in HOLDING.items():
        for kind in kinds:
            layers = (layer(kind, groups=2 if (method, kind) == ("lora", "conv2d") else 1),)
            network = {"sizes": SIZES.get(kind, ())}
            one = example(*layers, method=method, acts=(do.Fill(),), network=network)
            scripts[f"{method}-{kind}"] = script(finding(one, failure("function", 0)))
    for name, one in {**FAILING, **{f"holds{i}": each for i, each in enumerate(EVERY_ACT)}}.items():
        failed = run(one, tmp_path / name).failure
        assert (failed is None) == (one in EVERY_ACT)
        failed = failed or failure("exception", len(one.acts) - 1)
        scripts[name] = script(finding(one, failed))
    expected = {name: int(name in FAILING) for name in scripts}
    assert exit_codes(tmp_path / "scripts", scripts) == expected
