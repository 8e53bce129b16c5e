"""Every registered method fulfils the protocol: what it wraps, trains, ships and merges."""

import copy
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import (
    ALL,
    adapted,
    cast_base,
    each,
    loaded,
    method_named,
    rank_of,
    trainable,
    trained,
)
from tiny_network import tiny_data, tiny_network

from peft_regress.catalogue.architectures.torchvision_models import (
    MOBILENET_V2,
    MOBILENET_V3_SMALL,
    RESNET18,
    SHUFFLENET_V2_X0_5,
)
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.errors import InputError

ARCHITECTURES = (MOBILENET_V3_SMALL, SHUFFLENET_V2_X0_5, RESNET18, MOBILENET_V2)
# Without a linear layer besides the head these are handed convolutions, and refuse them.
LINEAR_ONLY = {"pissa", "olora", "pissa-bf16", "olora-bf16"}
# A defect of peft: one more parameter trains (the snapshot of test_invariants.py).
ADALORA_BF16 = method_named("adalora-bf16")
SOUND = tuple(method for method in ALL if method is not ADALORA_BF16)
WRAPPING = tuple(method for method in ALL if isinstance(method, PeftAdapter))
GROUPED = (method_named("lora-grouped"), method_named("dora-grouped"))

# What peft says to its users at every use; that it says it is none of these tests' business.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'. . LoRA tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
]


@pytest.fixture(scope="module")
def bases():
    return {item.name: item.build(num_classes=10, seed=0) for item in ARCHITECTURES}


# What trains


@each(*SOUND)
def test_what_trains_is_what_the_rule_says(method, bases):
    """On one architecture in turn; some need the first or second, which have layers for them."""
    turn = 0 if method.name in {"pissa", "olora-bf16"} else SOUND.index(method)
    if method in GROUPED:
        turn = 1
    architecture = ARCHITECTURES[turn % len(ARCHITECTURES)]
    base = cast_base(copy.deepcopy(bases[architecture.name]), method.base_dtype)
    rank = 96 if method in GROUPED else rank_of(method)
    method = method.at(rank, heads=(architecture.head,))
    expected = method.expected_trainable(base)
    if method.name in LINEAR_ONLY and architecture is not MOBILENET_V3_SMALL:
        with pytest.raises(ValueError, match="Unknown initialization init_lora_weights="):
            method.adapt(base, seed=0)
        return
    model = method.adapt(base, seed=0)
    assert trainable(model) == expected
    heads = [name for name in expected if f".{architecture.head}." in f".{name}"]
    assert len(heads) == 2


# Of peft, on a bfloat16 base: the snapshot of test_invariants.py.
FORGETS_WHAT_TRAINS = {
    f"{name}-bf16"
    for name in ("boft", "hira", "hra", "ia3", "loha", "loha-tucker", "lokr", "lokr-tucker")
}


# Seeds


@each(*ALL)
def test_seed_alone_fixes_what_is_adapted(method):
    torch.manual_seed(1)
    first = dict(adapted(method, seed=7).named_parameters())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = dict(adapted(method, seed=7).named_parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@each(*(method for method in WRAPPING if method.base_dtype == "float32"))
def test_another_seed_draws_another_adapter(method, snapshot):
    """Which tensors a method draws; the others start at a constant or come from the weights."""
    one, other = (dict(adapted(method, seed=seed).named_parameters()) for seed in (7, 8))
    assert snapshot == sorted(name for name in one if not torch.equal(one[name], other[name]))


# Merging


@each(*GROUPED)
def test_no_grouped_convolution_merges(method):
    """What `merge_equals_unmerged` is false for; a release that merges them shows."""
    with pytest.raises(NotImplementedError, match="Merging is not supported"):
        method.merge(trained(method))


@each(*(method for method in WRAPPING if method not in (ADALORA_BF16, *GROUPED)))
def test_merging_gives_a_plain_model_and_leaves_the_adapted_one(method):
    model = trained(method)
    images = tiny_data(method.base_dtype).test_images
    before = model(images)
    merged = method.merge(model)
    shapes = [
        {name: tuple(parameter.shape) for name, parameter in one.named_parameters()}
        for one in (merged, tiny_network())
    ]
    assert shapes[0] == shapes[1]
    assert {p.dtype for p in merged.parameters()} == {getattr(torch, method.base_dtype)}
    # Merged weights are rounded to the base's type, of 8 bits in bfloat16.
    relative = 1e-5 if method.base_dtype == "float32" else 3e-2
    assert (merged(images) - before).abs().max() <= relative * before.abs().max()
    assert torch.equal(model(images), before)


# Optimizers


@each(*(method for method in SOUND if method.name != "full-bf16"))
def test_optimizer_moves_exactly_what_trains(method):
    before = dict(adapted(method).named_parameters())
    after = dict(trained(method).named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    pruned = {name for name in before if any(part in name for part in method.prunes)}
    assert moved | pruned == {name for name, p in before.items() if p.requires_grad}


@each(*ALL)
def test_optimizer_holds_every_parameter_that_trains_once(method):
    model = adapted(method)
    optimizer = method.make_optimizer(model)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    # LoRA-FA's needs the frozen A beside B, and holds the whole model.
    every = method.name.startswith("lorafa")
    assert sorted(held) == sorted(id(p) for p in model.parameters() if every or p.requires_grad)


@each(*ALL)
def test_optimizer_is_set_as_the_definition_says(method):
    declared = method.hyperparameters()
    optimizer = method.make_optimizer(adapted(method))
    assert type(optimizer).__name__ == str(declared["optimizer"]).removeprefix("GaLore")
    for group in optimizer.param_groups:
        assert list(group["betas"]) == declared["betas"]
        assert group["eps"] == declared["eps"]
        assert group["weight_decay"] == declared["weight_decay"] == 0.0
        assert group.get("foreach", False) is False
    peak = method.learning_rate
    ratio = declared.get("loraplus_lr_ratio", 1)
    assert declared["learning_rate"] == peak
    rates = {group["lr"] for group in optimizer.param_groups if group["params"]}
    assert rates == {peak, peak * ratio}


# Shipping


@each(*SOUND)
def test_what_is_saved_carries_the_trained_function_to_another_base(method, tmp_path):
    model = trained(method)
    images = tiny_data(method.base_dtype).test_images
    assert not torch.equal(adapted(method, seed=99).eval()(images), model(images))
    method.save(model, tmp_path)
    fresh = loaded(method, tmp_path)
    assert torch.equal(fresh(images), model(images))


@each(*SOUND)
def test_what_is_saved_is_what_is_counted_as_shipped(method, tmp_path):
    model = trained(method)
    method.save(model, tmp_path)
    files = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    saved = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    assert len(saved) == sum(map(len, files.values()))
    shipped = method.shipped_tensors(model)
    assert saved.keys() == shipped.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in shipped.items())
    others = {path.name for path in tmp_path.iterdir()} - files.keys()
    assert others == ({"adapter_config.json"} if method in WRAPPING else set())


@each(*(method for method in SOUND if method.name not in FORGETS_WHAT_TRAINS))
def test_what_is_loaded_trains_where_it_is_asked_to_and_not_else(method, tmp_path):
    method.save(adapted(method), tmp_path)
    assert trainable(loaded(method, tmp_path, train=True)) == trainable(adapted(method))
    assert trainable(loaded(method, tmp_path)) == {}


@each(*WRAPPING)
def test_adapters_ship_themselves_and_the_head_and_nothing_of_the_base(method):
    shipped = method.shipped_tensors(adapted(method))
    parameters = {
        name.replace(".default", "").replace("_vector.weight", "_vector")
        for name in trainable(adapted(method))
        if ".head." not in name
    }
    # LoRA-FA's frozen A is drawn and has to be shipped; peft leaves AdaLoRA's `ranknum` out, and
    # sends BatchNorm's statistics along with its trained copy.
    parameters |= {
        name.replace("lora_B", "lora_A") for name in parameters if "lorafa" in method.name
    }
    parameters = {name for name in parameters if ".ranknum" not in name}
    statistics = {name for name in shipped if ".ln_tuning_layers." in name} - parameters
    assert shipped.keys() - statistics == parameters | {"head.weight", "head.bias"}
    assert {name.rpartition(".")[2] for name in statistics} <= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@each(*ALL)
def test_loading_refuses_tensors_of_another_model(method, tmp_path):
    method.save(adapted(method), tmp_path)
    name = "adapter_model" if method in WRAPPING else "model"
    path = tmp_path / f"{name}.safetensors"
    tensors = load_file(path)
    kept = dict(tensors)
    removed, tensor = kept.popitem()
    save_file(kept, path)
    with pytest.raises(InputError, match=f"1 absent .*{re.escape(removed)}"):
        loaded(method, tmp_path)
    save_file({**tensors, "base_model.model.stranger": tensor.clone()}, path)
    with pytest.raises(InputError, match=r"1 unknown .*stranger"):
        loaded(method, tmp_path)


# Off and on


@each(*(method for method in WRAPPING if not method.alters_base))
def test_an_adapter_that_is_off_leaves_the_base(method):
    base = cast_base(tiny_network(), method.base_dtype)
    model = trained(method)
    base.head.load_state_dict(model.get_submodule("base_model.model.head").state_dict())
    images = tiny_data(method.base_dtype).test_images
    with method.disabled(model):
        assert torch.equal(model(images), base(images))
    assert not torch.equal(model(images), base(images))


@each(*(method for method in ALL if method not in WRAPPING))
def test_methods_without_an_adapter_have_nothing_to_switch_off_or_to_merge(method):
    model = adapted(method)
    assert method.disabled(model) is method.merge(model) is None
    head, statistics = {"head.weight", "head.bias"}, {"norm.running_mean", "norm.running_var"}
    shipped = {"head": head, "bn_head": head | statistics}
    if method.name in {"full", "full-bf16", "galore", "galore-cloned"}:
        shipped[method.name] = {*tiny_network().state_dict()}
    assert method.shipped_tensors(model).keys() == shipped.get(
        method.name, method.shipped_tensors(model).keys()
    )
