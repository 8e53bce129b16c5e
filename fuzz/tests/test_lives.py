"""Lives run with the installed peft: sound ones pass, and each check sees its defect."""

import msgspec
import peft
import pytest
import torch
from peft import LoraModel, PeftModel
from peft.tuners.loha.layer import HadaWeight
from peft.tuners.lora import layer as lora_layer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from peft_fuzz import acts as do
from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.networks import build
from peft_fuzz.networks.network import Adapter, Layer, Network
from peft_fuzz.run import run


def linear(name="lin0", inputs=2, outputs=2, **more):
    return Layer(name=name, kind="linear", inputs=inputs, outputs=outputs, **more)


HEAD = linear("head", 6, 4)
LINEAR = (linear("lin0", 8, 6), HEAD)
CONVOLUTION = (
    Layer(name="conv", kind="conv2d", inputs=4, outputs=6, kernel=(3, 1), padding=(1, 0)),
    HEAD,
)
TWO_NAMES = (linear("lin0", 4, 4), linear("again", 4, 4, same_as="lin0"))
SHARED = (linear("lin0", 8, 6), linear("net.head", 6, 6), linear("again", 6, 6, same_as="net.head"))
LARGE = (linear("layer1", 12, 12), linear("layer2", 12, 12))
FILL, MERGE, UNMERGE, TRAIN = do.Fill(), do.Merge(), do.Unmerge(), do.Train()
ADD, USE_A, USE_B = (do.Add(adapter="b"), *(do.Activate(adapters=(name,)) for name in "ab"))
BESIDE = do.LoadBeside(adapter="a", name="c")
SAVE_AND_TRAIN = do.SaveLoad(trainable=True)
ROUND_TRIP = (FILL, MERGE, UNMERGE)
ADALORA = {"target_modules": ["lin0"], "init_r": 1, "total_step": 1}
SECOND = (FILL, ADD, USE_B, do.Fill(seed=1))
BOTH = ["lin0", "head"]


def example(
    *acts,
    layers=LINEAR,
    method="lora",
    first=None,
    second=None,
    sizes=(),
    dtype="float32",
    autocast=True,
    channels_last=False,
    **settings,
):
    """Return a life of adapters a and b; where `first` are all settings, of a alone."""
    mine = {"target_modules": [layers[0].name], "r": 2, **settings} if first is None else first
    if method == "ln_tuning":
        del mine["r"]
    adapters = {"a": mine} if first else {"a": mine, "b": second or mine}
    return Example(
        network=Network(
            layers=tuple(layers), sizes=sizes, dtype=dtype, channels_last=channels_last
        ),
        method=method,
        adapters=tuple(Adapter(name=name, settings=its) for name, its in adapters.items()),
        acts=acts,
        autocast=autocast,
    )


def without_onednn(sizes, **fields):
    """Return a life that oneDNN computes wrong with torch 2.13 on a CPU with AVX512-BF16."""
    kind = f"conv{len(sizes)}d"
    return example(
        FILL,
        TRAIN,
        layers=[Layer(name="conv", kind=kind, **fields)],
        sizes=sizes,
        dtype="bfloat16",
        channels_last=kind == "conv2d",
    )


ONEDNN_GRADIENT = without_onednn(
    (1, 5, 4), inputs=8, outputs=16, kernel=(2, 2, 2), padding=(1, 1, 1)
)
SOUND = {
    # Memory instead of an output (pytorch#169688), a gradient of 1e33, and the end of the process
    # (oneDNN#5942).
    "without oneDNN's outputs": without_onednn(
        (4, 4), inputs=2, outputs=4, kernel=(3, 5), stride=(1, 2), padding=(0, 1), groups=2
    ),
    "without oneDNN's gradients": ONEDNN_GRADIENT,
    "without oneDNN's crash": without_onednn(
        (3, 1), inputs=6, outputs=4, kernel=(3, 1), stride=(2, 3), padding=(0, 2),
        dilation=(1, 2), groups=2,
    ),
    "training mode": example(do.Mode(training=True), FILL, TRAIN, MERGE, UNMERGE),
    "adding what is there after a conversion": example(
        do.Convert(dtype="bfloat16"), do.Add(adapter="a")
    ),
    "loading into the base as it was before rounding": example(
        *ROUND_TRIP, do.Convert(dtype="float32"), do.SaveLoad(), dtype="bfloat16"
    ),
    "an adapter without parameters": example(
        do.Copy(), layers=[linear("lin0", 4, 4, bias=False)], method="glora", config_A_B="none"
    ),
    "unloading beside a copy of a shared module": example(
        FILL, do.Unload(), layers=SHARED, modules_to_save=["head"]
    ),
    "merging": example(FILL, do.Merge(safe=True), UNMERGE, MERGE, do.Disable(), do.Enable()),
    "training": example(TRAIN, MERGE, UNMERGE, do.Train(keep_optimizer=True), do.Copy()),
    "two adapters": example(
        *SECOND,
        do.Activate(adapters=("a", "b")),
        *(do.Merge(adapters=(name,)) for name in "ab"),
        UNMERGE,
        USE_A,
        do.Delete(adapter="b"),
    ),
    "refused with shared parameters": example(
        FILL, do.Merge(safe=True, broken=True), method="tinylora", target_modules=BOTH
    ),
    "empty parameters": example(
        FILL,
        TRAIN,
        layers=[linear()],
        method="osf",
        first={"target_modules": ["lin0"], "effective_rank": 2},
    ),
    "numbers in float16 that do not train": example(
        FILL, method="adalora", dtype="float16", first=ADALORA
    ),
    "empty and trained": example(FILL, TRAIN, layers=[linear()], method="psoft", r=1),
    "trained by tiny gradients": example(
        TRAIN,
        do.Mode(training=True),
        layers=[linear()],
        method="vblora",
        dtype="float16",
        autocast=False,
        r=1,
        vector_length=1,
    ),
    "a vector on all layers": example(
        ADD, method="unilora", target_modules=["head"], second={"target_modules": BOTH, "r": 2}
    ),
    "large, unmerged, under two names": example(
        FILL,
        BESIDE,
        MERGE,
        do.Activate(adapters=("c",)),
        layers=[*LARGE, linear("layer3", 12, 12, same_as="layer2")],
        method="randlora",
        first={"target_modules": ["layer1", "layer2"], "r": 1},
    ),
    "vectors of other layers": example(
        ADD, USE_B, method="tinylora", target_modules=BOTH, second={"target_modules": ["head"]}
    ),
    "exchanged by merging": example(
        TRAIN, MERGE, do.Copy(), UNMERGE, FILL, MERGE, USE_A, method="ln_tuning"
    ),
    "merged under two names": example(*ROUND_TRIP, layers=TWO_NAMES),
    "unloaded under two names": example(FILL, do.Unload(merge=True), layers=TWO_NAMES),
    "saved": example(*SECOND, SAVE_AND_TRAIN, TRAIN, do.SaveLoad(), do.Disable(within=True)),
    "loaded beside": example(FILL, BESIDE, do.Activate(adapters=("c",))),
    "a copied layer": example(*SECOND, SAVE_AND_TRAIN, do.Unload(), modules_to_save=["head"]),
    "unloaded": example(FILL, do.Unload(merge=True)),
    "a convolution": example(
        *ROUND_TRIP, do.Convert(channels_last=True), layers=CONVOLUTION, sizes=(5, 2)
    ),
    "half precision": example(*ROUND_TRIP, TRAIN, do.Convert(dtype="float32"), dtype="bfloat16"),
    "a swap": example(FILL, do.HotSwap(adapter="a", target_rank=8), do.Fill(seed=2)),
    "DoRA": example(*SECOND, USE_A, MERGE, method="dora", use_dora=True),
    "refusals": example(
        FILL,
        do.Add(adapter="a"),
        do.Merge(safe=True, broken=True),
        MERGE,
        do.Delete(adapter="a"),
        do.HotSwap(adapter="a"),
        UNMERGE,
    ),
    "no match": example(ADD, second={"target_modules": ["nowhere"]}),
}  # fmt: skip


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


def swapped(real, context, gradient):
    w1a, w1b, w2a, w2b, scale = real(context, gradient)
    return w2a, w2b, w1a, w1b, scale


class Kept(torch.Tensor):
    """Stays in the graph, and so does what is computed from it."""

    def detach(self):
        return self


def wrapped_again(real, self, *given, **named):
    """As peft before 0.14 did where an adapter had the name of the module that it copied."""
    real(self, *given, **named)
    for name in [*self.modules_to_save]:
        if not isinstance(self.modules_to_save[name], ModulesToSaveWrapper):
            inner = ModulesToSaveWrapper.__new__(ModulesToSaveWrapper)
            real(inner, self.modules_to_save[name], name)
            self.modules_to_save[name] = inner


Linear, Lora = lora_layer.Linear, lora_layer.LoraLayer
MERGED = (FILL, MERGE)
DEFECTS = {
    # The check that sees it; what is wrong; the acts; the act that fails; settings.
    "merged": (around(Linear, "get_delta_weight", lambda real, *a: 2.0 * real(*a)), MERGED, 1),
    "unmerged": (
        around(Linear, "unmerge", lambda _, self: self.merged_adapters.clear()), ROUND_TRIP, 2,
    ),
    "function": (around(Lora, "update_layer", halved_scale), [FILL], 0),
    "identity": (around(Lora, "reset_lora_parameters", noisy), (), -1),
    "no_op": (
        around(Linear, "forward", lambda _, self, x, *_a, **_k: self.base_layer(x)), [FILL], 0,
    ),
    "leftover": (
        around(Linear, "delete_adapter", lambda *_: None), [ADD, do.Delete(adapter="b")], 1,
    ),
    "frozen": (
        around(PeftModel, "from_pretrained", trainable(lambda name: "lora_A" in name)),
        [SAVE_AND_TRAIN], 0,
    ),
    "loaded": (around(PeftModel, "from_pretrained", loaded_half), [FILL, SAVE_AND_TRAIN], 1),
    "dtype": (around(Linear, "merge", then(widen)), MERGED, 1),
    "layout": (around(Linear, "merge", then(stride)), MERGED, 1),
    "refused_safe_merge": (
        around(
            Linear, "merge",
            lambda real, self, safe_merge=False, adapter_names=None: real(
                self, False, adapter_names
            ),
        ),
        [FILL, do.Merge(safe=True, broken=True)], 1,
    ),
    "frozen base": (around(Lora, "enable_adapters", then(thaw)), [do.Disable(), do.Enable()], 0),
    "frozen other": (around(Lora, "set_adapter", then(thaw_all)), [ADD], 0),
    "cost": (around(Linear, "forward", twice), [FILL], 0),
    "trained": (
        around(Linear, "unmerge", then(renew)),
        [TRAIN, MERGE, UNMERGE, do.Train(keep_optimizer=True)], 3,
    ),
    "frozen when wrapped": (
        around(peft, "get_peft_model", trainable(lambda name: "lora_A" not in name)), (), -1,
    ),
    "frozen bias of a copy": (
        around(
            peft, "get_peft_model",
            trainable(lambda name: "modules_to_save" not in name or "bias" not in name),
        ),
        (), -1, {"modules_to_save": ["head"]},
    ),
    "dtype of the base": (
        around(BaseTuner, "_cast_adapter_dtype", lambda *_a, **_k: None),
        (), -1, {"dtype": "bfloat16"},
    ),
    "leak": (
        around(ModulesToSaveWrapper, "__init__", wrapped_again), (), -1,
        {"modules_to_save": ["head"]},
    ),
    "function on all layers": (
        around(LoraModel, "_check_target_module_exists", lambda _, *given: given[-1] == "lin0"),
        (), -1, {"target_modules": BOTH},
    ),
    "gradient of LoHa": (
        around(HadaWeight, "backward", swapped), [FILL], 0, {"method": "loha"},
    ),
    "gradient through the norm of DoRA": (
        around(
            DoraLinearLayer, "get_lora_weight",
            lambda real, *given, **named: real(*given, **named).as_subclass(Kept),
        ),
        [FILL], 0, {"method": "dora"},
    ),
}  # fmt: skip
SAID = {
    "function on all layers": "Adapter a is not on head, which it must adapt.",
    "gradient of LoHa": "The gradient of lin0.hada_w1_a of adapter a differs",
}


@pytest.mark.parametrize("act", [ADD, BESIDE, SAVE_AND_TRAIN])
def test_an_adapter_put_in_later_is_seen_in_half_precision(act, tmp_path, monkeypatch):
    """float32 is asked for by default; without it, the adapter may be as the base is."""
    original = BaseTuner._cast_adapter_dtype
    calls = []

    def first_alone(self, *arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 1:
            original(self, *arguments, **keywords)

    monkeypatch.setattr(BaseTuner, "_cast_adapter_dtype", first_alone)
    failure = run(example(act, dtype="bfloat16"), tmp_path / "1").failure
    assert (failure.check, failure.act) == ("dtype", 0), failure.message
    unasked = example(act, dtype="bfloat16", autocast=False)
    assert run(unasked, tmp_path / "2").failure is None


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_seen_by_its_check(name, tmp_path, monkeypatch):
    inject, acts, position, *settings = DEFECTS[name]
    inject(monkeypatch)
    failure = run(example(*acts, **dict(*settings)), tmp_path).failure
    assert (failure.check, failure.act) == (name.split(maxsplit=1)[0], position), failure.message
    assert failure.message.startswith(SAID.get(name, ""))


def test_a_failure_names_the_library_function_that_raised(tmp_path, monkeypatch):
    def broken(_self, _name):
        raise ZeroDivisionError("no rank")

    monkeypatch.setattr(lora_layer.Linear, "get_delta_weight", broken)
    assert run(example(*MERGED), tmp_path).failure == Failure(
        check="exception",
        act=1,
        message="ZeroDivisionError: no rank",
        error="ZeroDivisionError",
        where="tuners.lora.layer:merge",
    )


TORN = (LINEAR[0], linear("head", 9, 4))


@pytest.mark.parametrize(
    ("one", "end", "said"),
    [
        (example(method="unheard"), "absent", "unheard"),
        (example(unheard_setting=1), "absent", "no unheard_setting"),
        (example(layers=TORN), "absent", "does not run"),
        (example(FILL, r=0), "refused", "should be a positive integer"),
        # AdaLoRA trains one adapter alone: two that were saved cannot be loaded to train.
        (
            example(BESIDE, SAVE_AND_TRAIN, method="adalora", first=ADALORA),
            *("refused", "supports only 1 trainable adapter"),
        ),
        (example(UNMERGE, FILL), "refused", "act 0 has no meaning here"),
    ],
)
def test_what_a_release_lacks_or_refuses_ends_a_life_without_a_failure(one, end, said, tmp_path):
    outcome = run(one, tmp_path)
    assert outcome.failure is None
    assert said in getattr(outcome, end)


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


def test_drawing_and_shrinking_compute_without_onednn_which_is_on_afterwards(monkeypatch):
    on = []
    flags = torch.backends.mkldnn
    monkeypatch.setattr(build.Sequence, "forward", lambda _, x: on.append(flags.enabled))
    build.runs(ONEDNN_GRADIENT.network)
    assert (on, flags.enabled) == ([False], True)
