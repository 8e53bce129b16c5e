"""Lives run with the installed peft: sound ones pass, and each check sees its defect."""

from __future__ import annotations

import msgspec
import peft
import pytest
import torch
from peft import LoraModel, PeftModel
from peft.tuners.lora import layer as lora_layer
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from peft_fuzz.acts import (
    Activate,
    Add,
    Convert,
    Copy,
    Delete,
    Disable,
    Enable,
    Fill,
    HotSwap,
    LoadBeside,
    Merge,
    Mode,
    SaveLoad,
    Train,
    Unload,
    Unmerge,
)
from peft_fuzz.example import Example, Outcome
from peft_fuzz.networks.network import Adapter, Layer, Network
from peft_fuzz.run import run

LINEAR = (
    Layer(name="lin0", kind="linear", inputs=8, outputs=6),
    Layer(name="head", kind="linear", inputs=6, outputs=4),
)
CONVOLUTION = (
    Layer(name="conv", kind="conv2d", inputs=4, outputs=6, kernel=(3, 1), padding=(1, 0)),
    Layer(name="head", kind="linear", inputs=6, outputs=4),
)
TWO_NAMES = (
    Layer(name="lin0", kind="linear", inputs=4, outputs=4),
    Layer(name="again", kind="linear", inputs=4, outputs=4, same_as="lin0"),
)
FILL = Fill()
ADALORA = {"target_modules": ["lin0"], "init_r": 1, "total_step": 1}
SECOND = (FILL, Add(adapter="b"), Activate(adapters=("b",)), Fill(seed=1))


def example(
    *acts, layers=LINEAR, method="lora", second=None, sizes=(), dtype="float32", **settings
):
    mine = {"target_modules": [layers[0].name], "r": 2, **settings}
    if method == "ln_tuning":
        del mine["r"]
    return Example(
        network=Network(layers=tuple(layers), sizes=sizes, dtype=dtype),
        method=method,
        adapters=(
            Adapter(name="a", settings=mine),
            Adapter(name="b", settings=mine if second is None else second),
        ),
        acts=acts,
    )


SOUND = {
    "adding what is there after a conversion": example(Convert(dtype="bfloat16"), Add(adapter="a")),
    "loading into the base as it was before rounding": example(
        FILL, Merge(), Unmerge(), Convert(dtype="float32"), SaveLoad(), dtype="bfloat16"
    ),
    "an adapter without parameters": example(
        Copy(),
        layers=(Layer(name="lin0", kind="linear", inputs=4, outputs=4, bias=False),),
        method="glora",
        config_A_B="none",
    ),
    "unloading beside a copy of a shared module": example(
        FILL,
        Unload(),
        layers=(
            *LINEAR[:1],
            Layer(name="net.head", kind="linear", inputs=6, outputs=6),
            Layer(name="again", kind="linear", inputs=6, outputs=6, same_as="net.head"),
        ),
        modules_to_save=["head"],
    ),
    "merging": example(FILL, Merge(safe=True), Unmerge(), Merge(), Disable(), Enable()),
    "training": example(Train(), Merge(), Unmerge(), Train(keep_optimizer=True), Copy()),
    "two adapters": example(
        *SECOND,
        Activate(adapters=("a", "b")),
        Merge(adapters=("a",)),
        Merge(adapters=("b",)),
        Unmerge(),
        Activate(adapters=("a",)),
        Delete(adapter="b"),
    ),
    "refused with shared parameters": example(
        FILL, Merge(safe=True, broken=True), method="tinylora", target_modules=["lin0", "head"]
    ),
    "empty parameters": Example(
        network=Network(layers=(Layer(name="lin0", kind="linear", inputs=2, outputs=2),)),
        method="osf",
        adapters=(Adapter(name="a", settings={"target_modules": ["lin0"], "effective_rank": 2}),),
        acts=(FILL, Train()),
    ),
    "numbers in float16 that do not train": msgspec.structs.replace(
        example(FILL, method="adalora", dtype="float16"),
        adapters=(Adapter(name="a", settings=ADALORA),),
    ),
    "empty and trained": example(
        FILL,
        Train(),
        layers=(Layer(name="lin0", kind="linear", inputs=2, outputs=2),),
        method="psoft",
        r=1,
    ),
    "trained by tiny gradients": msgspec.structs.replace(
        example(
            Train(),
            Mode(training=True),
            layers=(Layer(name="lin0", kind="linear", inputs=2, outputs=2),),
            method="vblora",
            dtype="float16",
            r=1,
            vector_length=1,
        ),
        autocast=False,
    ),
    "a vector on all layers": example(
        Add(adapter="b"),
        layers=(LINEAR[0], Layer(name="head", kind="linear", inputs=6, outputs=4)),
        method="unilora",
        target_modules=["head"],
        second={"target_modules": ["lin0", "head"], "r": 2},
    ),
    "large, unmerged, under two names": Example(
        network=Network(
            layers=(
                Layer(name="layer1", kind="linear", inputs=12, outputs=12),
                Layer(name="layer2", kind="linear", inputs=12, outputs=12),
                Layer(name="layer3", kind="linear", inputs=12, outputs=12, same_as="layer2"),
            )
        ),
        method="randlora",
        adapters=(Adapter(name="a", settings={"target_modules": ["layer1", "layer2"], "r": 1}),),
        acts=(
            FILL,
            LoadBeside(adapter="a", name="copied"),
            Merge(),
            Activate(adapters=("copied",)),
        ),
    ),
    "vectors of other layers": example(
        Add(adapter="b"),
        Activate(adapters=("b",)),
        layers=(LINEAR[0], Layer(name="head", kind="linear", inputs=6, outputs=4)),
        method="tinylora",
        target_modules=["lin0", "head"],
        second={"target_modules": ["head"]},
    ),
    "exchanged by merging": example(
        Train(),
        Merge(),
        Copy(),
        Unmerge(),
        FILL,
        Merge(),
        Activate(adapters=("a",)),
        method="ln_tuning",
    ),
    "merged under two names": example(FILL, Merge(), Unmerge(), layers=TWO_NAMES),
    "unloaded under two names": example(FILL, Unload(merge=True), layers=TWO_NAMES),
    "saved": example(*SECOND, SaveLoad(trainable=True), Train(), SaveLoad(), Disable(within=True)),
    "loaded beside": example(FILL, LoadBeside(adapter="a", name="c"), Activate(adapters=("c",))),
    "a copied layer": example(
        *SECOND, SaveLoad(trainable=True), Unload(), modules_to_save=["head"]
    ),
    "unloaded": example(FILL, Unload(merge=True)),
    "a convolution": example(
        FILL, Merge(), Unmerge(), Convert(channels_last=True), layers=CONVOLUTION, sizes=(5, 2)
    ),
    "half precision": example(
        FILL, Merge(), Unmerge(), Train(), Convert(dtype="float32"), dtype="bfloat16"
    ),
    "a swap": example(FILL, HotSwap(adapter="a", target_rank=8), Fill(seed=2)),
    "DoRA": example(*SECOND, Activate(adapters=("a",)), Merge(), method="dora", use_dora=True),
    "refusals": example(
        FILL,
        Add(adapter="a"),
        Merge(safe=True, broken=True),
        Merge(),
        Delete(adapter="a"),
        HotSwap(adapter="a"),
        Unmerge(),
    ),
    "no match": example(Add(adapter="b"), second={"target_modules": ["nowhere"]}),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_life_passes(name, tmp_path):
    outcome = run(SOUND[name], tmp_path)
    assert outcome == Outcome(acts=len(SOUND[name].acts))


def test_an_example_survives_json_and_ends_alike(tmp_path):
    first = SOUND["two adapters"]
    again = msgspec.json.decode(msgspec.json.encode(first), type=Example)
    assert again == first
    assert run(again, tmp_path / "1") == run(first, tmp_path / "2")


def around(owner, name, change):
    """Return what injects a defect: `change` instead of a function, which it gets first."""

    def inject(monkeypatch):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **named: change(real, *given, **named))

    return inject


def halved_scale(real, self, name, *given, **named):
    real(self, name, *given, **named)
    self.scaling[name] *= 0.5


def noisy(real, self, name, start):
    real(self, name, start)
    nn.init.normal_(self.lora_B[name].weight)


def trainable(wanted):
    """Return a change of what wraps or loads: a parameter trains if its name is as wanted."""

    def change(real, *given, **named):
        model = real(*given, **named)
        for name, tensor in model.named_parameters():
            tensor.requires_grad_(tensor.requires_grad and wanted(name))
        return model

    return change


def loaded_half(real, *given, **named):
    model = real(*given, **named)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.mul_(0.5 if "lora_A" in name else 1.0)
    return model


def then(change):
    """Return a change of a layer's method: afterwards something is done with the layer."""

    def changed(real, self, *given, **named):
        real(self, *given, **named)
        change(self)

    return changed


def widen(layer):
    layer.get_base_layer().weight.data = layer.get_base_layer().weight.data.double()


def stride(layer):
    layer.get_base_layer().weight.data = layer.get_base_layer().weight.data.T.contiguous().T


def renew(layer):
    for module in (*layer.lora_A.values(), *layer.lora_B.values()):
        module.weight = nn.Parameter(module.weight.detach().clone())


def thaw(layer):
    layer.get_base_layer().requires_grad_(True)


def thaw_all(layer):
    for tensor in layer.lora_B.parameters():
        tensor.requires_grad_(True)


def twice(real, *given, **named):
    real(*given, **named)
    return real(*given, **named)


Linear, Lora = lora_layer.Linear, lora_layer.LoraLayer
MERGED = (FILL, Merge())
DEFECTS = {
    "merged": (around(Linear, "get_delta_weight", lambda real, *a: 2.0 * real(*a)), MERGED, 1),
    "unmerged": (
        around(Linear, "unmerge", lambda _, self: self.merged_adapters.clear()),
        (*MERGED, Unmerge()),
        2,
    ),
    "function": (around(Lora, "update_layer", halved_scale), (FILL,), 0),
    "identity": (around(Lora, "reset_lora_parameters", noisy), (), -1),
    "no_op": (
        around(Linear, "forward", lambda _, self, x, *_a, **_k: self.base_layer(x)),
        (FILL,),
        0,
    ),
    "leftover": (
        around(Linear, "delete_adapter", lambda *_: None),
        (Add(adapter="b"), Delete(adapter="b")),
        1,
    ),
    "frozen": (
        around(PeftModel, "from_pretrained", trainable(lambda name: "lora_A" in name)),
        (SaveLoad(trainable=True),),
        0,
    ),
    "loaded": (
        around(PeftModel, "from_pretrained", loaded_half),
        (FILL, SaveLoad(trainable=True)),
        1,
    ),
    "dtype": (around(Linear, "merge", then(widen)), MERGED, 1),
    "layout": (around(Linear, "merge", then(stride)), MERGED, 1),
    "exception": (
        around(Linear, "get_delta_weight", lambda *_: torch.zeros(1) @ torch.zeros(2)),
        MERGED,
        1,
    ),
    "refused_safe_merge": (
        around(
            Linear,
            "merge",
            lambda real, self, safe_merge=False, adapter_names=None: real(
                self, False, adapter_names
            ),
        ),
        (FILL, Merge(safe=True, broken=True)),
        1,
    ),
    "frozen base": (around(Lora, "enable_adapters", then(thaw)), (Disable(), Enable()), 0),
    "frozen other": (around(Lora, "set_adapter", then(thaw_all)), (Add(adapter="b"),), 0),
    "cost": (around(Linear, "forward", twice), (FILL,), 0),
    "trained": (
        around(Linear, "unmerge", then(renew)),
        (Train(), Merge(), Unmerge(), Train(keep_optimizer=True)),
        3,
    ),
}


@pytest.mark.parametrize(
    ("defect", "check", "settings"),
    [
        (
            around(peft, "get_peft_model", trainable(lambda name: "lora_A" not in name)),
            "frozen",
            {},
        ),
        (
            around(
                peft,
                "get_peft_model",
                trainable(lambda name: "modules_to_save" not in name or "bias" not in name),
            ),
            "frozen",
            {"modules_to_save": ["head"]},
        ),
        (
            around(BaseTuner, "_cast_adapter_dtype", lambda *_a, **_k: None),
            "dtype",
            {"dtype": "bfloat16"},
        ),
    ],
)
def test_a_defect_of_wrapping_is_seen(defect, check, settings, tmp_path, monkeypatch):
    defect(monkeypatch)
    failure = run(example(**settings), tmp_path).failure
    assert failure is not None
    assert (failure.check, failure.act) == (check, -1), failure.message


def test_a_copy_that_is_wrapped_once_more_is_seen(tmp_path, monkeypatch):
    """As peft before 0.14 did where an adapter had the name of the module that it copied."""
    original = ModulesToSaveWrapper.__init__

    def twice(self, *given, **named):
        original(self, *given, **named)
        for name in [*self.modules_to_save]:
            if not isinstance(self.modules_to_save[name], ModulesToSaveWrapper):
                inner = ModulesToSaveWrapper.__new__(ModulesToSaveWrapper)
                original(inner, self.modules_to_save[name], name)
                self.modules_to_save[name] = inner

    monkeypatch.setattr(ModulesToSaveWrapper, "__init__", twice)
    failure = run(example(modules_to_save=["head"]), tmp_path).failure
    assert failure is not None
    assert (failure.check, failure.act) == ("leak", -1), failure.message


@pytest.mark.parametrize(
    "act", [Add(adapter="b"), LoadBeside(adapter="a", name="c"), SaveLoad(trainable=True)]
)
def test_an_adapter_put_in_later_is_seen_in_half_precision(act, tmp_path, monkeypatch):
    """float32 is asked for by default; without it, the adapter may be as the base is."""
    original = BaseTuner._cast_adapter_dtype
    calls = []

    def first_alone(self, *arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 1:
            original(self, *arguments, **keywords)

    monkeypatch.setattr(BaseTuner, "_cast_adapter_dtype", first_alone)
    outcome = run(example(act, dtype="bfloat16"), tmp_path / "1")
    assert outcome.failure is not None, (outcome, calls)
    failure = outcome.failure
    assert (failure.check, failure.act) == ("dtype", 0), failure.message
    unasked = msgspec.structs.replace(example(act, dtype="bfloat16"), autocast=False)
    assert run(unasked, tmp_path / "2").failure is None


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_seen_by_its_check(name, tmp_path, monkeypatch):
    inject, acts, position = DEFECTS[name]
    inject(monkeypatch)
    failure = run(example(*acts), tmp_path).failure
    assert failure is not None
    assert (failure.check, failure.act) == (name.split(maxsplit=1)[0], position), failure.message


def test_a_layer_that_the_library_leaves_out_is_seen(tmp_path, monkeypatch):
    matches = staticmethod(lambda _configuration, key: key == "lin0")
    monkeypatch.setattr(LoraModel, "_check_target_module_exists", matches)
    failure = run(example(target_modules=["lin0", "head"]), tmp_path).failure
    assert failure is not None
    assert (failure.check, failure.act) == ("function", -1)
    assert failure.message == "Adapter a is not on head, which it must adapt."


def test_a_failure_names_the_library_function_that_raised(tmp_path, monkeypatch):
    def broken(_self, _name):
        raise ZeroDivisionError("no rank")

    monkeypatch.setattr(lora_layer.Linear, "get_delta_weight", broken)
    failure = run(example(*MERGED), tmp_path).failure
    assert failure is not None
    assert failure.error == "ZeroDivisionError"
    assert failure.message == "ZeroDivisionError: no rank"
    assert failure.where == "tuners.lora.layer:merge"


def test_what_a_release_lacks_is_absent(tmp_path):
    assert run(example(method="unheard"), tmp_path).absent is not None
    outcome = run(example(unheard_setting=1), tmp_path)
    assert "no unheard_setting" in str(outcome.absent)
    assert outcome.failure is None


def test_a_clear_error_at_wrapping_is_a_refusal(tmp_path):
    outcome = run(example(FILL, r=0), tmp_path)
    assert "should be a positive integer" in str(outcome.refused)


def test_a_documented_refusal_ends_a_life_at_any_act(tmp_path):
    """AdaLoRA trains one adapter alone: two that were saved cannot be loaded to train."""
    two = msgspec.structs.replace(
        example(LoadBeside(adapter="a", name="c"), SaveLoad(trainable=True), method="adalora"),
        adapters=(Adapter(name="a", settings=ADALORA),),
    )
    outcome = run(two, tmp_path)
    assert outcome.failure is None
    assert "supports only 1 trainable adapter" in str(outcome.refused)


def test_an_act_without_meaning_ends_the_life(tmp_path):
    outcome = run(example(Unmerge(), FILL), tmp_path)
    assert outcome == Outcome(refused="act 0 has no meaning here")


def test_a_network_that_does_not_run_is_absent(tmp_path):
    torn = (LINEAR[0], Layer(name="head", kind="linear", inputs=9, outputs=4))
    assert "does not run" in str(run(example(layers=torn), tmp_path).absent)


def test_a_defect_of_the_oracles_is_raised(tmp_path, monkeypatch):
    from peft_fuzz.oracle import expected

    def broken(*_arguments, **_keywords):
        raise ValueError("of our own")

    monkeypatch.setattr(expected, "adapter_tensors", broken)
    with pytest.raises(ValueError, match="of our own"):
        run(example(FILL), tmp_path)


def test_nothing_is_printed_and_no_warning_reaches_the_caller(tmp_path, capfd):
    run(SOUND["two adapters"], tmp_path)
    assert capfd.readouterr() == ("", "")
