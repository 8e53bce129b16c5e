"""Every registered method fulfils the protocol: what it draws, steps with, ships and merges.

That it trains, moves, reloads and switches off what it must is for its invariants to say, of every
method (tests/measure/test_invariants.py) and of every case of the suite.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import ALL, adapted, each, loaded, method_named, trainable, trained
from tiny_network import tiny_network

from peft_regress.catalogue.methods import LORA, PeftAdapter
from peft_regress.errors import InputError

# A defect of peft: one more parameter trains (the snapshot of test_invariants.py).
ADALORA_BF16 = method_named("adalora-bf16")
SOUND = tuple(method for method in ALL if method is not ADALORA_BF16)
WRAPPING = tuple(method for method in ALL if isinstance(method, PeftAdapter))

# What peft says to its users at every use; that it says it is none of these tests' business.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'. . LoRA tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
]


@each(*ALL)
def test_the_seed_alone_decides_what_an_adapter_draws(method, snapshot):
    """The snapshot has what each method of peft draws; all else is constant or of the weights."""
    torch.manual_seed(1)
    first = dict(adapted(method, seed=7).named_parameters())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = (dict(adapted(method, seed=seed).named_parameters()) for seed in (7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = sorted(name for name in first if not torch.equal(first[name], other[name]))
    if method in WRAPPING and method.base_dtype == "float32":
        assert snapshot == drawn


@each(*ALL)
def test_optimizer_is_set_as_the_definition_says_and_holds_what_trains_once(method):
    declared, model = method.hyperparameters(), adapted(method)
    optimizer = method.make_optimizer(model)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    # LoRA-FA's needs the frozen A beside B, and holds the whole model.
    every = method.name.startswith("lorafa")
    assert sorted(held) == sorted(id(p) for p in model.parameters() if every or p.requires_grad)
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


@each(*WRAPPING)
def test_adapters_ship_themselves_and_the_head_and_nothing_of_the_base(method):
    model = adapted(method)
    shipped = method.shipped_tensors(model)
    parameters = {
        name.replace(".default", "").replace("_vector.weight", "_vector")
        for name in trainable(model)
        if ".head." not in name and ".ranknum" not in name
    }
    # LoRA-FA's frozen A is drawn and has to be shipped; peft leaves AdaLoRA's `ranknum` out, and
    # sends BatchNorm's statistics along with its trained copy.
    if "lorafa" in method.name:
        parameters |= {name.replace("lora_B", "lora_A") for name in parameters}
    statistics = {name for name in shipped if ".ln_tuning_layers." in name} - parameters
    assert shipped.keys() - statistics == parameters | {"head.weight", "head.bias"}
    kinds = {name.rpartition(".")[2] for name in statistics}
    assert kinds <= {"running_mean", "running_var", "num_batches_tracked"}


@each(*map(method_named, ("lora", "lora-bf16", "ln_tuning", "bn_head", "full", "galore")))
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


@each(*(method for method in ALL if method not in WRAPPING))
def test_methods_without_an_adapter_have_nothing_to_switch_off_or_to_merge(method):
    model = adapted(method)
    assert method.disabled(model) is method.merge(model) is None
    head, statistics = {"head.weight", "head.bias"}, {"norm.running_mean", "norm.running_var"}
    whole = {*model.state_dict()}
    expected = {"head": head, "bn_head": head | statistics, "full": whole, "galore": whole}
    shipped = {*method.shipped_tensors(model)}
    assert shipped == expected.get(method.name, shipped)


@each(*(method for method in ALL if method.base_dtype == "bfloat16"))
def test_base_keeps_its_type_and_adapters_are_in_float32(method):
    tensors = tiny_network().state_dict()
    for model in (adapted(method), trained(method)):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            # Norm tuning trains copies of whole layers, which stay what they are copies of.
            of_base = plain in tensors or ".ln_tuning_layers." in name
            wanted = torch.bfloat16 if of_base else torch.float32
            assert tensor.dtype in {wanted, torch.int64}, name


@each(*ALL)
def test_definition_is_plain_json_with_a_type_only_where_it_is_not_float32(method):
    declared = method.hyperparameters()
    assert json.loads(json.dumps(declared)) == declared
    assert declared.get("base_dtype", "float32") == method.base_dtype
    assert not method.ranks or method.at(1).hyperparameters() != method.at(2).hyperparameters()
    assert ("base_dtype" in declared) == (method.base_dtype != "float32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", "AnotherConfig"),
        ("settings", lambda rank: {"r": rank, "lora_alpha": 2 * rank}),
        ("targets", method_named("loha").targets),
        ("optimizer_settings", {"optimizer": "SGD"}),
        ("base_dtype", "bfloat16"),
    ],
)
def test_whatever_is_set_by_hand_in_an_adapter_is_in_its_definition(field, value):
    assert replace(LORA, **{field: value}).at(4).hyperparameters() != LORA.at(4).hyperparameters()


# On bfloat16 their costs are to be had, and no baseline.
COSTS_ALONE = {"bitfit-bf16", "norm-bf16", "galore-bf16", "loha-tucker-bf16", "lokr-tucker-bf16"}


def test_the_default_matrix_has_eight_methods_and_the_extended_one_the_others():
    default = [method for method in ALL if "default" in method.matrices]
    ranks = dict.fromkeys(("lora", "dora", "galore"), (1, 4, 16))
    ranks |= {"lora-dropout": (4,), "lora-lean": (4,)}
    assert {m.name for m in default} == {"full", "head", "bn_head", *ranks}
    for method in default:
        assert method.matrices == ("default",)
        assert method.ranks == ranks.get(method.name, ())
    for method in (method for method in ALL if method not in default):
        assert method.matrices == (() if method.name in COSTS_ALONE else ("extended",))
        assert method.ranks in ({(96,)} if method.name.endswith("-grouped") else {(), (4,)})
