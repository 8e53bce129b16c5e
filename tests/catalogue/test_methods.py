"""Every registered method fulfils the protocol: what it draws, steps with, ships and merges.

That it trains, moves, reloads and switches off what it must is for its invariants to say, of every
method (tests/measure/test_invariants.py) and of every case of the suite.
"""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import ALL, adapted, each, loaded, method_named, trainable, trained

from peft_regress.catalogue.methods import PeftAdapter
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
