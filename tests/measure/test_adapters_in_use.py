"""Merging in place, safe merging, a second adapter and its deletion: right ones, and wrong ones."""

import copy
import warnings

import peft
import peft.tuners.ia3.layer as ia3_layer
import peft.tuners.lora.layer as lora_layer
import pytest
import torch
from own_training import convolutional, false_facts, fine_tune, measured
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from tiny_methods import method_named, rank_of
from tiny_network import tiny_data, tiny_network
from torch import nn

from peft_regress.catalogue.methods import LORA
from peft_regress.catalogue.methods.selective import HEAD
from peft_regress.measure.adapters.built_in_method import MethodAdapter
from peft_regress.measure.adapters.tuner import SECOND, Tuner
from peft_regress.measure.invariants import UNMERGE_TOLERANCE, InvariantWatch
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.merging import refused_merge_keeps_base
from peft_regress.measure.objective import Objective

UNMERGE, REFUSE, LEAK, DELETE = (
    "unmerge_restores_base",
    "refused_merge_keeps_base",
    "adapters_do_not_leak",
    "delete_leaves_nothing",
)
ALL_FOUR = {UNMERGE, REFUSE, LEAK, DELETE}
OFF, TOGGLE = "disabled_equals_base", "toggling_keeps_trainable"
WITH_COPY = peft.LoraConfig(r=2, target_modules=["6"], modules_to_save=["8"])


def facts_of(method=LORA, base=None, names=ALL_FOUR):
    """Return the named facts of a method on a tiny network, without training it."""
    base = tiny_network() if base is None else base
    data = tiny_data()
    watch = InvariantWatch(
        adapter=MethodAdapter(method=method, rank=rank_of(method), heads=("head",)),
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=(data.test_images[:8], data.test_labels[:8]),
    )
    adapted = method.adapt(base, heads=("head",), rank=rank_of(method), seed=0)
    watch.before_training(adapted)
    found = watch.at_start
    return {name: found[name] for name in found if name in names}


def false_of(method=LORA, base=None, names=ALL_FOUR):
    """Return the notes of those that do not hold."""
    found = facts_of(method, base, names)
    return {name: fact.note for name, fact in found.items() if fact.holds is False}


def test_a_right_adapter_has_all_four():
    assert {fact.holds for fact in facts_of().values()} == {True}


# Unmerging


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-3, 0.0, -1.0])
def test_a_merge_that_is_not_taken_out_as_it_was_put_in(monkeypatch, factor):
    def unmerge(self):
        for name in self.merged_adapters:
            self.get_base_layer().weight.data -= factor * self.get_delta_weight(name)
        self.merged_adapters.clear()

    monkeypatch.setattr(lora_layer.Linear, "unmerge", unmerge)
    found = false_of()
    assert set(found) == (set() if factor == 1.0 else {UNMERGE})
    if found:
        assert found[UNMERGE].startswith("base_model.model.linear.base_layer.weight: off by up to")


def test_a_bias_that_is_scaled_again_by_unmerging(monkeypatch):
    """As peft did up to 0.19.1 with IA3 on a convolution with a bias: huggingface/peft#3216."""
    unmerge = ia3_layer.Conv2d.unmerge

    def scaling_again(self):
        (name,) = self.merged_adapters
        bias = self.get_base_layer().bias
        unmerge(self)
        if bias is not None:
            bias.data *= self.ia3_l[name].flatten() ** 2

    assert false_of(method_named("ia3")) == {}
    monkeypatch.setattr(ia3_layer.Conv2d, "unmerge", scaling_again)
    found = false_of(method_named("ia3"))
    assert set(found) == {UNMERGE}
    assert found[UNMERGE].startswith("base_model.model.depthwise.base_layer.bias: off by up to 0.")


def test_an_unmerge_that_leaves_another_type(monkeypatch):
    unmerge = lora_layer.Linear.unmerge

    def doubled(self):
        unmerge(self)
        self.get_base_layer().weight.data = self.get_base_layer().weight.data.double()

    monkeypatch.setattr(lora_layer.Linear, "unmerge", doubled)
    assert false_of() == {
        UNMERGE: "base_model.model.linear.base_layer.weight: off by up to inf of the largest"
    }


def test_an_unmerge_that_raises(monkeypatch):
    def unmerge(_self):
        raise AttributeError("no such weight")

    monkeypatch.setattr(lora_layer.Linear, "unmerge", unmerge)
    assert false_of()[UNMERGE].startswith("the library raises AttributeError: no such weight")


def test_a_second_merge_that_adds_the_adapter_again(monkeypatch):
    """The way back takes it out as often: the weights alone are as before."""

    def merge(self, safe_merge=False, adapter_names=None):
        del safe_merge, adapter_names
        self.get_base_layer().weight.data += self.get_delta_weight("default")
        self.merged_adapters.append("default")

    monkeypatch.setattr(lora_layer.Linear, "merge", merge)
    assert false_of()[UNMERGE].endswith(" when unmerged and merged again")


def test_a_merge_that_is_wrong_after_an_unmerge(monkeypatch):
    merge = lora_layer.Linear.merge

    def once_only(self, safe_merge=False, adapter_names=None):
        if not hasattr(self, "was_merged"):
            merge(self, safe_merge=safe_merge, adapter_names=adapter_names)
        elif not self.merged:
            self.merged_adapters.append("default")
        self.was_merged = True

    monkeypatch.setattr(lora_layer.Linear, "merge", once_only)
    assert set(false_of()) == {UNMERGE}


def test_an_unmerge_that_is_wrong_the_second_time(monkeypatch):
    unmerge = lora_layer.Linear.unmerge

    def wearing_out(self):
        self.unmerges = getattr(self, "unmerges", 0) + bool(self.merged)
        unmerge(self)
        if self.unmerges > 2:  # the first two: beside a second adapter, and alone
            self.get_base_layer().weight.data *= 1.001

    monkeypatch.setattr(lora_layer.Linear, "unmerge", wearing_out)
    found = false_of()
    assert set(found) == {UNMERGE}
    assert found[UNMERGE].startswith("merged and unmerged again, base_model.model.linear.")


def test_a_merge_that_takes_an_adapter_that_is_not_active(monkeypatch):
    chosen = lora_layer.check_adapters_to_merge

    def all_of_them(layer, names=None):
        return chosen(layer, names or list(layer.lora_A))

    monkeypatch.setattr(lora_layer, "check_adapters_to_merge", all_of_them)
    found = false_of()
    assert set(found) == {UNMERGE}
    assert found[UNMERGE].endswith(" when merged beside a second adapter that is not active")


def test_a_merge_that_fails_half_way_is_no_matter_of_the_deletion():
    def network():
        base = convolutional()
        base[6] = nn.Linear(8, 8, bias=False)
        return base

    config = peft.LoraConfig(r=2, target_modules=["0", "6"], lora_bias=True)
    record = measured(fine_tune(config, model=network))
    assert record.invariants["unmerge_restores_base"] is False
    assert record.invariants["delete_leaves_nothing"] is True


def test_a_vector_of_fixed_length_need_not_grow_with_the_rank():
    config = peft.UniLoraConfig(r=2, target_modules=["6"])
    record = measured(fine_tune(config))
    assert record.status == "ok", record.error
    assert record.invariants["doubled_rank_not_smaller"] is True


def test_rounding_of_a_weight_is_judged_by_what_was_merged_into_it():
    """A delta far above the weight takes digits of it, however right the library is."""
    base = tiny_network()
    with torch.no_grad():
        base.linear.weight *= UNMERGE_TOLERANCE
    assert facts_of(base=base)[UNMERGE].holds is True


def test_a_base_of_half_precision_is_judged_in_float32():
    method = method_named("lora-bf16")
    data = tiny_data().cast("bfloat16")
    base = tiny_network().to(torch.bfloat16)
    watch = InvariantWatch(
        adapter=MethodAdapter(method=method, rank=2, heads=("head",)),
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=(data.test_images[:8], data.test_labels[:8]),
    )
    adapted = method.adapt(base, heads=("head",), rank=2, seed=0)
    watch.before_training(adapted)
    found = watch.at_start
    assert {found[name].holds for name in ALL_FOUR} == {True}


# A merge that is refused


def _linear_merge(self, *, early, refuses, says_merged=False):
    if self.merged:
        return
    weight = self.get_base_layer().weight
    merged = weight.data + self.get_delta_weight("default")
    if early:
        weight.data = merged
    if says_merged:
        self.merged_adapters.append("default")
    if refuses and not torch.isfinite(merged).all():
        raise ValueError("NaNs detected")
    weight.data = merged
    if not says_merged:
        self.merged_adapters.append("default")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"early": True, "refuses": True}, "refused, after it was merged into weight"),
        ({"early": False, "refuses": False}, "merged without a refusal into weight"),
        (
            {"early": False, "refuses": True, "says_merged": True},
            "refused, and yet merged by its own account",
        ),
    ],
)
def test_a_safe_merge_that_is_not_safe(monkeypatch, how, said):
    def merge(self, safe_merge=False, adapter_names=None):
        del safe_merge, adapter_names
        _linear_merge(self, **how)

    monkeypatch.setattr(lora_layer.Linear, "merge", merge)
    found = false_of()
    assert set(found) == {REFUSE}
    assert found[REFUSE] == ", ".join(
        f"NaN in base_model.model.linear.lora_{part}.default.weight: {said}" for part in "AB"
    )


def test_a_refusal_of_another_kind_is_an_error(monkeypatch):
    merge = lora_layer.Linear.merge

    def raising(self, safe_merge=False, adapter_names=None):
        if safe_merge:
            raise RuntimeError("size mismatch")
        merge(self, safe_merge=safe_merge, adapter_names=adapter_names)

    monkeypatch.setattr(lora_layer.Linear, "merge", raising)
    assert "the library raises RuntimeError: size mismatch" in false_of()[REFUSE]


def test_boft_merges_a_nan_into_a_convolution():
    """See docs/findings/peft-boft-safe-merge.md; its Linear layers refuse."""
    base = convolutional()
    base[0] = nn.Conv2d(4, 8, 1)
    config = peft.BOFTConfig(
        boft_block_size=4, boft_n_butterfly_factor=1, target_modules=["0", "6"]
    )
    with warnings.catch_warnings(action="ignore"):  # of a compiler that is not there
        adapted = peft.get_peft_model(base, config)
    names = [name for name, parameter in adapted.named_parameters() if ".boft_" in name]
    assert refused_merge_keeps_base(adapted, names).note == (
        "NaN in base_model.model.0.boft_R.default: merged without a refusal into weight, "
        "NaN in base_model.model.0.boft_s.default: merged without a refusal into weight"
    )
    linear = [name for name in names if ".6." in name]
    assert refused_merge_keeps_base(adapted, linear) == Fact(holds=True)


# A second adapter


def test_a_second_adapter_that_shares_a_tensor(monkeypatch):
    update = lora_layer.Linear.update_layer

    def sharing(self, name, *args, **settings):
        update(self, name, *args, **settings)
        if name == SECOND:
            self.lora_B[name].weight.data = self.lora_B["default"].weight.data

    monkeypatch.setattr(lora_layer.Linear, "update_layer", sharing)
    assert false_of() == {
        LEAK: "adding and filling a second one changes "
        "base_model.model.linear.lora_B.default.weight"
    }


def test_a_second_adapter_that_shares_a_parameter(monkeypatch):
    update = lora_layer.Linear.update_layer

    def sharing(self, name, *args, **settings):
        update(self, name, *args, **settings)
        if name == SECOND:
            self.lora_B[name].weight = self.lora_B["default"].weight

    monkeypatch.setattr(lora_layer.Linear, "update_layer", sharing)
    found = false_of()
    assert found[LEAK] == "what a second one computes depends on the numbers in the first one"
    assert set(found) == {LEAK, DELETE}  # it trains once the second one has been active


@pytest.mark.parametrize(
    ("becomes", "said"),
    [
        (lambda active, name: [*active, name], "depends on the numbers in the first one"),
        (lambda active, _name: active, "as without it"),
    ],
)
def test_switching_that_keeps_the_first_one_on(monkeypatch, becomes, said):
    switch = BaseTuner.set_adapter

    def wrong(self, name, *args, **settings):
        switch(self, becomes(["default"], name) if name == SECOND else name, *args, **settings)

    monkeypatch.setattr(BaseTuner, "set_adapter", wrong)
    found = false_of()
    assert set(found) == {LEAK}
    assert said in found[LEAK]


@pytest.mark.parametrize("ignored", ["default", SECOND])
def test_two_active_adapters_of_which_one_is_ignored(monkeypatch, ignored):
    switch = BaseTunerLayer.set_adapter

    def wrong(self, names, *args, **settings):
        if len(names) > 1 and not isinstance(names, str):
            names = [name for name in names if name != ignored]
        switch(self, names, *args, **settings)

    monkeypatch.setattr(BaseTunerLayer, "set_adapter", wrong)
    (other,) = {"default", SECOND} - {ignored}
    assert false_of() == {LEAK: f"with two active ones, the output is that of {other} alone"}


def test_a_copied_module_that_is_not_switched(monkeypatch):
    switch = ModulesToSaveWrapper.set_adapter

    def stuck(self, names, *args, **settings):
        switch(self, names and list(self.modules_to_save)[:1], *args, **settings)

    monkeypatch.setattr(ModulesToSaveWrapper, "set_adapter", stuck)
    found = false_facts(measured(fine_tune(WITH_COPY)))
    assert found == {LEAK: "what a second one computes depends on the numbers in the first one"}


def test_switching_that_does_not_come_back(monkeypatch):
    switch = BaseTuner.set_adapter

    def once(self, name, *args, **settings):
        if name != "default" or "default" in self.active_adapters:
            switch(self, name, *args, **settings)

    monkeypatch.setattr(BaseTuner, "set_adapter", once)
    assert false_of()[LEAK].startswith("switched to a second one and back")


def test_adding_without_a_word_and_without_an_adapter(monkeypatch):
    add = peft.PeftModel.add_adapter
    monkeypatch.setattr(peft.PeftModel, "add_adapter", lambda *_, **__: None)
    assert false_of()[LEAK] == "a second adapter gets no parameters"
    monkeypatch.setattr(peft.PeftModel, "add_adapter", add)
    assert false_of() == {}


def test_adding_that_raises_breaks_both(monkeypatch):
    def add(*_, **__):
        raise KeyError("indices")

    monkeypatch.setattr(peft.PeftModel, "add_adapter", add)
    found = false_of()
    assert set(found) == {LEAK, DELETE}
    assert all(note.startswith("the library raises KeyError") for note in found.values())


# Its deletion


@pytest.mark.parametrize(
    ("leave", "where"),
    [
        (lambda layer: layer.scaling.update({SECOND: 1.0}), "linear.scaling"),
        (lambda layer: setattr(layer, "left", {"names": [("x", SECOND)]}), "linear.left"),
        (lambda layer: setattr(layer, SECOND, 1), f"linear.{SECOND}"),
    ],
)
def test_a_deletion_that_leaves_a_name(monkeypatch, leave, where):
    """As peft did up to 0.19.1 with a setting of each method: huggingface/peft#3376."""
    delete = lora_layer.LoraLayer.delete_adapter

    def leaving(self, name):
        delete(self, name)
        if isinstance(self, lora_layer.Linear):
            leave(self)

    monkeypatch.setattr(lora_layer.LoraLayer, "delete_adapter", leaving)
    assert false_of() == {DELETE: f"these still name the deleted one: base_model.model.{where}"}


def test_a_deletion_that_leaves_a_saved_module(monkeypatch):
    """As peft did up to 0.15.2: huggingface/peft#2466."""
    assert false_facts(measured(fine_tune(WITH_COPY))) == {}
    monkeypatch.setattr(ModulesToSaveWrapper, "delete_adapter", lambda *_, **__: None)
    assert false_facts(measured(fine_tune(WITH_COPY))) == {
        DELETE: "these still name the deleted one: "
        "base_model.model.8._adapters, base_model.model.8.modules_to_save._modules"
    }


def test_a_deletion_that_frees_what_was_frozen(monkeypatch):
    delete = lora_layer.LoraLayer.delete_adapter

    def freeing(self, name):
        delete(self, name)
        self.get_base_layer().requires_grad_(requires_grad=True)

    monkeypatch.setattr(lora_layer.LoraLayer, "delete_adapter", freeing)
    assert false_of()[DELETE].startswith("not the trainable set of before: base_model.model.conv.")


def test_a_deletion_that_takes_the_first_one_along(monkeypatch):
    delete = lora_layer.LoraLayer.delete_adapter

    def zeroing(self, name):
        delete(self, name)
        nn.init.zeros_(self.lora_B["default"].weight)

    monkeypatch.setattr(lora_layer.LoraLayer, "delete_adapter", zeroing)
    assert false_of()[DELETE] == "the first one computes something else"


def test_a_deletion_that_raises(monkeypatch):
    def delete(*_):
        raise AttributeError("delete_adapter")

    monkeypatch.setattr(peft.PeftModel, "delete_adapter", delete)
    assert set(false_of()) == {DELETE}


# Off and on again


def test_a_copied_module_that_stays_on_when_the_adapter_is_off(monkeypatch):
    monkeypatch.setattr(ModulesToSaveWrapper, "enable_adapters", lambda *_: None)
    found = false_facts(measured(fine_tune(WITH_COPY)))
    assert set(found) == {OFF}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layer: layer.lora_A.requires_grad_(requires_grad=False), "lora_A"),
        (lambda layer: layer.scaling.update(default=layer.scaling["default"] / 2), "the loss"),
    ],
)
def test_train_after_eval_that_changes_the_adapter(monkeypatch, change, said):
    def train(self, mode=True):
        if mode and not self.training:
            change(self)
        return nn.Module.train(self, mode)

    monkeypatch.setattr(lora_layer.Linear, "train", train)
    found = false_of(names={OFF, TOGGLE})
    assert set(found) == {TOGGLE}
    assert said in found[TOGGLE]


# Where they do not apply


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        (
            "adalora",
            {LEAK: "supports only 1 trainable adapter", DELETE: "only 1 trainable adapter"},
        ),
        ("pissa", dict.fromkeys((LEAK, DELETE), "alters the base's weights")),
        ("ln_tuning", {REFUSE: "no safe merge"}),
        ("lora-grouped", dict.fromkeys((UNMERGE, REFUSE), "peft does not merge")),
        ("head", dict.fromkeys(ALL_FOUR, "no adapter that can be switched off")),
    ],
)
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_what_does_not_apply_says_why(name, absent):
    found = facts_of(HEAD if name == "head" else method_named(name))
    assert {key for key, fact in found.items() if fact.holds is None} == set(absent)
    for key, words in absent.items():
        assert words in found[key].note
    assert all(fact.holds is not False for fact in found.values())


def test_they_do_not_apply_to_an_adapter_of_ones_own():
    def wrap(base):
        base.requires_grad_(requires_grad=False)
        base[8].requires_grad_(requires_grad=True)
        return base

    record = measured(fine_tune(wrap))
    assert {record.invariants[name] for name in ALL_FOUR} == {None}
    assert record.invariant_notes.keys() >= ALL_FOUR


def test_only_what_peft_wrapped_has_layers_of_peft():
    assert Tuner.of(convolutional()) is None
    prompted = peft.LoraConfig(r=2, target_modules=["6"])
    assert Tuner.of(peft.get_peft_model(convolutional(), prompted)) is not None


def test_the_model_and_the_random_numbers_are_as_before():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    base = tiny_network()
    data = tiny_data()
    watch = InvariantWatch(
        adapter=MethodAdapter(method=LORA, rank=2, heads=("head",)),
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=(data.test_images[:8], data.test_labels[:8]),
    )
    adapted = LORA.adapt(base, heads=("head",), rank=2, seed=0)
    before = copy.deepcopy(adapted.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.before_training(adapted)
    assert torch.equal(torch.rand(4), expected)
    assert list(adapted.peft_config) == ["default"]
    after = adapted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
