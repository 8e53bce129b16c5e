"""Merging in place, safe merging, a second adapter and its deletion: right ones, and wrong ones."""

import copy
import functools
import warnings
from unittest import mock

import peft
import peft.tuners.ia3.layer as ia3_layer
import peft.tuners.lora.layer as lora_layer
import pytest
import torch
from fault_catalogue import FAULTS as CATALOGUE
from fault_catalogue.injection import injected
from own_training import convolutional, false_facts, fine_tune, measured
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from tiny_methods import method_named, rank_of
from tiny_network import tiny_data, tiny_network
from torch import nn

from peft_regress.catalogue.methods import LORA
from peft_regress.catalogue.methods.selective import HEAD
from peft_regress.measure.invariants.outputs import UNMERGE_TOLERANCE
from peft_regress.measure.invariants.tuner import SECOND
from peft_regress.measure.invariants.watch import InvariantWatch
from peft_regress.measure.objective import Objective

UNMERGE, REFUSE, LEAK, DELETE = (
    "unmerge_restores_base",
    "refused_merge_keeps_base",
    "adapters_do_not_leak",
    "delete_leaves_nothing",
)
OFF, TOGGLE = "disabled_equals_base", "toggling_keeps_trainable"
PATHS, STATE = "paths_agree", "state_kept"
ALL_FOUR = {UNMERGE, REFUSE, LEAK, DELETE}
WITH_COPY = peft.LoraConfig(r=2, target_modules=["6"], modules_to_save=["8"])


def watched(method, base):
    """Return a watch and the adapted model."""
    data = tiny_data(method.base_dtype)
    method = method.at(rank_of(method), heads=("head",))
    watch = InvariantWatch(
        adapter=method,
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=(data.test_images[:8], data.test_labels[:8]),
    )
    return watch, method.adapt(base, seed=0)


def facts_of(method=LORA, base=None):
    """Return the facts of a method's use on a tiny network, without training it."""
    watch, adapted = watched(method, tiny_network() if base is None else base)
    watch.before_training(adapted)
    return {name: watch.at_start[name] for name in (*sorted(ALL_FOUR), OFF, TOGGLE, PATHS, STATE)}


def false_of(method=LORA):
    """Return the notes of those that do not hold."""
    return {name: fact.note for name, fact in facts_of(method).items() if fact.holds is False}


def test_a_merged_model_that_cannot_run_ends_no_case(monkeypatch):
    def raises(*_):
        raise RuntimeError("merged into nothing")

    broken = nn.Linear(1, 1)
    broken.forward = raises
    monkeypatch.setattr(peft.LoraModel, "merge_and_unload", lambda *_, **__: broken)
    fact = facts_of()[PATHS]
    assert fact.holds is False
    assert "merged into nothing" in fact.note


# --- Faults ---------------------------------------------------------------------------------------

LINEAR, LAYER = lora_layer.Linear, lora_layer.LoraLayer
WEIGHT = "base_model.model.linear.base_layer.weight"
NAMED = "these still name the deleted one: base_model.model.linear"
DEPENDS = "what a second one computes depends on the numbers in the first one"
FAULTS = {}


def fault(owner, function, *broken, said=""):
    """Register what replaces a function, which facts that breaks, and a part of the first's note.

    The replacement gets the original first.
    """

    def register(replacement):
        FAULTS[f"{function}: {replacement.__name__}"] = owner, function, replacement, broken, said
        return replacement

    return register


@fault(LINEAR, "merge", REFUSE, said="lora_A.default.weight: refused, and yet merged by its own ac")
def refuses_and_says_that_it_merged(original, self, **how):
    try:
        original(self, **how)
    except ValueError:
        self.merged_adapters.append("default")
        raise


@fault(LINEAR, "unmerge", UNMERGE, said="the library raises AttributeError: no such weight")
def raises(original, self):
    if self.merged and not hasattr(self, "was_merged"):  # not beside a second adapter
        self.was_merged = True
        return original(self)
    raise AttributeError("no such weight")


@fault(LINEAR, "unmerge", UNMERGE, said="merged and unmerged again, base_model.model.linear.")
def wears_out(original, self):
    self.unmerges = getattr(self, "unmerges", 0) + bool(self.merged)
    original(self)
    if self.unmerges > 2:  # the first two: beside a second adapter, and alone
        self.get_base_layer().weight.data *= 1.001


# It trains once the second one has been active.
@fault(LINEAR, "update_layer", LEAK, DELETE, PATHS, STATE, said=DEPENDS)
def shares_a_parameter(original, self, name, *args, **settings):
    original(self, name, *args, **settings)
    if name == SECOND:
        self.lora_B[name].weight = self.lora_B["default"].weight


@fault(BaseTuner, "set_adapter", LEAK, PATHS, said="as without it")
def switches_nothing(original, self, name, *args, **settings):
    original(self, "default" if name == SECOND else name, *args, **settings)


@fault(BaseTuner, "set_adapter", LEAK, STATE, said="switched to a second one and back")
def does_not_switch_back(original, self, name, *args, **settings):
    if name != "default" or "default" in self.active_adapters:
        original(self, name, *args, **settings)


@fault(BaseTunerLayer, "set_adapter", LEAK, said=f"active ones, the output is that of {SECOND}")
def ignores_the_first_of_two(original, self, names, *args, **settings):
    original(self, names[-1:] if isinstance(names, list) else names, *args, **settings)


@fault(peft.PeftModel, "add_adapter", LEAK, DELETE, said="a second adapter gets no parameters")
def adds_nothing(*_, **__):
    return


@fault(peft.PeftModel, "add_adapter", LEAK, DELETE, said="the library raises KeyError")
def raises_a_key_error(*_, **__):
    raise KeyError("indices")


# As peft did up to 0.19.1 with a setting of each method: huggingface/peft#3376.
@fault(LAYER, "delete_adapter", DELETE, said=f"{NAMED}.scaling, base_model.model.linear.left, base")
def leaves_names(original, self, name):
    original(self, name)
    if isinstance(self, LINEAR):
        self.scaling[SECOND] = 1.0
        self.left = {"names": [("x", SECOND)]}
        setattr(self, SECOND, 1)


@fault(LAYER, "delete_adapter", DELETE, said="not the trainable set of before: base_model.model.co")
def frees_the_base(original, self, name):
    original(self, name)
    self.get_base_layer().requires_grad_(requires_grad=True)


@fault(LAYER, "delete_adapter", DELETE, UNMERGE, said="the first one computes something else")
def takes_the_first_one_along(original, self, name):
    original(self, name)
    if name == SECOND:
        nn.init.zeros_(self.lora_B["default"].weight)


@fault(LINEAR, "train", TOGGLE, LEAK, DELETE, said="the loss")
def train_rescales(_, self, mode=True):
    if mode and not self.training:
        self.scaling["default"] /= 2
    return nn.Module.train(self, mode)


# One way to run the adapter that is wrong


def wrong_where(condition):
    """Return a forward pass that adds a hundredth where a condition holds, unless it is off."""

    def wrong(original, self, x, **how):
        is_wrong = condition(self, x) and not self.disable_adapters
        return original(self, x, **how) * (1.01 if is_wrong else 1.0)

    wrong.__name__ = condition.__name__
    return wrong


@fault(LINEAR, "forward", PATHS, said="with gradients, the outputs differ by 0.0")
@wrong_where
def with_gradients(layer, _):
    return torch.is_grad_enabled() and not layer.training


@fault(LINEAR, "forward", PATHS, said="in training mode, the outputs differ by 0.0")
@wrong_where
def in_training_mode(layer, _):
    return layer.training


@fault(LINEAR, "forward", PATHS, said="under autocast, the library raises RuntimeError: mixed ty")
def refuses_autocast(original, self, x, **how):
    if torch.is_autocast_enabled("cpu"):
        raise RuntimeError("mixed types")
    return original(self, x, **how)


@fault(LINEAR, "forward", PATHS, said="under autocast, the outputs differ by")
def triples_under_autocast(original, self, x, **how):
    return original(self, x, **how) * (3.0 if torch.is_autocast_enabled("cpu") else 1.0)


# What an act changes beside its work


@fault(peft.PeftModel, "save_pretrained", STATE, said="saving changes whether base_model.model.con")
def saving_freezes(original, self, *args, **how):
    original(self, *args, **how)
    self.requires_grad_(requires_grad=False)


@fault(LINEAR, "merge", STATE, said="merging and unmerging changes the mode of base_model.model.l")
def merging_ends_training(original, self, **how):
    original(self, **how)
    self.eval()


@fault(peft.PeftModel, "load_adapter", STATE, said="loading another changes the numbers of base_")
def loading_moves_the_first_one(original, self, *args, **how):
    found = original(self, *args, **how)
    self.base_model.model.linear.lora_B["default"].weight.data *= 1.01
    return found


@fault(BaseTunerLayer, "set_adapter", STATE, said="switching to another and back changes the dro")
def switching_sets_dropout(original, self, names, *args, **how):
    original(self, names, *args, **how)
    if self.training and SECOND in names:
        self.base_layer.p = 0.5


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_breaks_the_facts_that_are_there_for_it(monkeypatch, name):
    owner, function, replacement, broken, said = FAULTS[name]
    original = getattr(owner, function)

    @functools.wraps(original)
    def replaced(*args, **how):
        return replacement(original, *args, **how)

    monkeypatch.setattr(owner, function, replaced)
    found = false_of()
    assert found.keys() == set(broken), found
    assert said in found[broken[0]]


@pytest.mark.parametrize(
    ("name", "broken", "said"),
    [
        ("unmerge-scales-wrongly", UNMERGE, "conv.base_layer.weight: off by up to"),
        ("merging-again-adds-it-again", UNMERGE, " when unmerged and merged again"),
        ("second-merge-is-wrong", UNMERGE, "conv.base_layer.weight: off by up to"),
        ("merge-takes-all-adapters", UNMERGE, "beside a second adapter that is not"),
        ("safe-merge-writes-before-it-checks", REFUSE, "refused, after it was merged into weight"),
        ("safe-merge-checks-nothing", REFUSE, "merged without a refusal into weight"),
        ("second-adapter-shares-b", f"{LEAK} {PATHS}", "conv.lora_B.default.weight"),
        ("switching-leaves-the-other-on", f"{LEAK} {PATHS}", DEPENDS),
        ("train-after-eval-freezes", f"{STATE} {DELETE}", "lora_A"),
        ("wrong-without-gradients", PATHS, "without gradients, the outputs differ by 0.0"),
        ("wrong-on-channels-last", PATHS, "on images channels last, the outputs differ"),
        ("disabled-is-on-in-training", PATHS, "off in training mode, the outputs differ by"),
        ("safe-merge-differs", PATHS, "merged safely, the outputs differ by"),
        ("unloading-merges", PATHS, "unloaded, the outputs differ by"),
        ("weighted-adapter-doubles", PATHS, "as a weighted adapter, the outp"),
        ("mixed-batch-has-no-base", PATHS, "in a mixed batch, the outputs differ by"),
        ("loading-switches-to-eval", STATE, "loading another changes the mode of the model"),
        ("adapters-stay-in-a-global", STATE, "loading another changes peft.tuners.lora.layer: Con"),
    ],
)
def test_a_fault_that_the_gate_is_tried_with_breaks_them_too(name, broken, said):
    with injected(CATALOGUE[name]):
        found = false_of()
    first, *_ = broken.split()
    assert found.keys() == set(broken.split()), found
    assert said in found[first]


def test_a_bias_that_is_scaled_again_by_unmerging(monkeypatch):
    """As peft did up to 0.19.1 with IA3 on a convolution with a bias: huggingface/peft#3216."""
    unmerge = ia3_layer.Conv2d.unmerge

    def scaling_again(self):
        (name,) = self.merged_adapters
        bias = self.get_base_layer().bias
        unmerge(self)
        if bias is not None:
            bias.data *= self.ia3_l[name].flatten() ** 2

    ia3 = method_named("ia3")
    assert false_of(ia3) == {}
    monkeypatch.setattr(ia3_layer.Conv2d, "unmerge", scaling_again)
    assert false_of(ia3)[UNMERGE].startswith("base_model.model.depthwise.base_layer.bias: off by ")


def test_a_merge_that_fails_half_way_is_no_matter_of_the_deletion():
    def network():
        base = convolutional()
        base[6] = nn.Linear(8, 8, bias=False)
        return base

    config = peft.LoraConfig(r=2, target_modules=["0", "6"], lora_bias=True)
    record = measured(fine_tune(config, model=network))
    assert false_facts(record) == {PATHS: mock.ANY}  # add_weighted_adapter leaves biases out
    assert "layer has no bias" in record.invariant_notes[UNMERGE]
    assert "layer has no bias" in record.invariant_notes["merge_equals_unmerged"]


def test_what_rounding_to_bfloat16_alone_does_is_no_defect(monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, x: x.sin())  # many waves of it
    config = peft.LoraConfig(r=2, target_modules=["6"], lora_alpha=16_000)
    assert measured(fine_tune(config)).invariants[PATHS] is True


def test_rounding_of_a_weight_is_judged_by_what_was_merged_into_it():
    """A delta far above the weight takes digits of it, however right the library is."""
    base = tiny_network()
    with torch.no_grad():
        base.linear.weight *= UNMERGE_TOLERANCE
    assert facts_of(base=base)[UNMERGE].holds is True


# Copies of whole modules


def stuck(switch):
    def wrong(self, names, *args, **settings):
        switch(self, names and list(self.modules_to_save)[:1], *args, **settings)

    return wrong


@pytest.mark.parametrize(
    ("function", "fault", "broken"),
    [
        ("set_adapter", stuck, {LEAK: DEPENDS, PATHS: "in a mixed batch, the outputs differ by"}),
        # As peft did up to 0.15.2: huggingface/peft#2466.
        (
            "delete_adapter",
            lambda _: lambda *_, **__: None,
            {
                DELETE: "these still name the deleted one: "
                "base_model.model.8._adapters, base_model.model.8.modules_to_save._modules"
            },
        ),
        (
            "enable_adapters",
            lambda _: lambda *_: None,
            {OFF: "the outputs differ by", PATHS: "off in training mode, the outputs differ by"},
        ),
    ],
)
def test_a_copied_module_that_is_not_switched_or_deleted(monkeypatch, function, fault, broken):
    original = getattr(ModulesToSaveWrapper, function)
    monkeypatch.setattr(ModulesToSaveWrapper, function, fault(original))
    found = false_facts(measured(fine_tune(WITH_COPY)))
    assert found.keys() == broken.keys()
    assert all(found[name].startswith(note) for name, note in broken.items())


# Where they do not apply


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        (
            "adalora",
            {LEAK: "supports only 1 trainable adapter", DELETE: "only 1 trainable adapter"},
        ),
        ("pissa", dict.fromkeys((LEAK, DELETE, OFF), "alters the base's weights")),
        ("ln_tuning", {REFUSE: "no safe merge"}),
        ("lora-grouped", dict.fromkeys((UNMERGE, REFUSE), "peft does not merge")),
        ("head", dict.fromkeys({*ALL_FOUR, OFF, TOGGLE, PATHS, STATE}, "can be switched off")),
    ],
)
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_what_does_not_apply_says_why(name, absent):
    found = facts_of(HEAD if name == "head" else method_named(name))
    assert {key for key, fact in found.items() if fact.holds is None} == set(absent)
    for key, words in absent.items():
        assert words in found[key].note
    assert all(fact.holds is not False for fact in found.values())


def test_the_model_and_the_random_numbers_are_as_before():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    watch, adapted = watched(LORA, tiny_network())
    before = copy.deepcopy(adapted.state_dict())
    with warnings.catch_warnings(action="error"):
        watch.before_training(adapted)
    assert torch.equal(torch.rand(4), expected)
    assert list(adapted.peft_config) == ["default"]
    after_it = adapted.state_dict()
    assert after_it.keys() == before.keys()
    assert all(torch.equal(after_it[name], tensor) for name, tensor in before.items())
