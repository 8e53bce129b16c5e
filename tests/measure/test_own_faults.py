"""Which signal sees a fault of a library in a case of one's own."""

import dataclasses
import functools
import re

import peft
import pytest
import torch
from fault_catalogue import FAULTS as CATALOGUE
from fault_catalogue.injection import injected
from own_training import false_facts, fine_tune, measured
from peft.tuners.lora.layer import Linear
from torch import nn

from peft_regress import lean
from peft_regress.measure.objective import evaluated
from peft_regress.measure.own_adapters import ConfigAdapter
from peft_regress.memory.packing import PACKINGS
from peft_regress.runs.schema import Defect

LORA = peft.LoraConfig(r=2, target_modules=["6", "8"], init_lora_weights="gaussian")


@pytest.fixture(scope="module")
def sound():
    """The record without a fault."""
    record = measured(fine_tune(LORA))
    assert false_facts(record) == {}
    return record


def broken(monkeypatch, owner, name, fault):
    """Measure with a function of a library replaced by what `fault` makes of it."""
    monkeypatch.setattr(owner, name, fault(getattr(owner, name)))
    record = measured(fine_tune(LORA))
    assert record.status == "ok", record.error
    return record


def test_a_frozen_weight_that_moves_is_named(monkeypatch):
    def drift(step):
        def moving(optimizer, *args):
            with torch.no_grad():
                for model in kept:
                    model.get_parameter("base_model.model.6.base_layer.weight").add_(0.001)
            return step(optimizer, *args)

        return moving

    def keep(*args, **settings):
        kept.append(wrap(*args, **settings))
        return kept[-1]

    kept, wrap = [], peft.get_peft_model
    monkeypatch.setattr(peft, "get_peft_model", keep)
    record = broken(monkeypatch, torch.optim.AdamW, "step", drift)
    named = false_facts(record)["frozen_unchanged"]
    assert named == "base_model.model.6.base_layer.weight"
    assert record.defects["frozen_unchanged"] == Defect(tensors=[named])


def test_a_wrong_mask_of_a_lean_model_names_the_first_loss_that_differs(monkeypatch):
    def adapt(net):
        net[2] = nn.ReLU6()
        net.requires_grad_(requires_grad=False)[0].requires_grad_()
        lean(net)
        return net

    def all_inside(_layer, _x, saved):
        return functools.partial(torch.full_like, saved, 3)

    case = fine_tune(adapt, also_train=["8"])
    assert measured(case).invariants["lean_trains_alike"] is True
    wrong = dataclasses.replace(PACKINGS[nn.ReLU6], pack=all_inside)
    monkeypatch.setitem(PACKINGS, nn.ReLU6, wrong)
    record = measured(case)
    (note,) = false_facts(record).values()
    found = re.fullmatch(r"the loss of step 2 is (\S+) if lean, (\S+) otherwise", note)
    assert float(found[1]) == record.curve.losses[1] != float(found[2])


class Merging(nn.Linear):
    """Merges its weights in eval mode, as a layer of loralib does."""

    unmerged_share = 1.0
    is_merged = False

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.requires_grad_(requires_grad=False)
        self.a = nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 2))

    def train(self, mode=True):
        super().train(mode)
        if mode == self.is_merged:
            share = -self.unmerged_share if mode else 1
            self.weight.data += share * self.b.detach() @ self.a.detach()
            self.is_merged = not mode
        return self

    def forward(self, x):
        out = super().forward(x)
        return out if self.is_merged else out + x @ self.a.T @ self.b.T


@pytest.mark.parametrize(("share", "drifts"), [(1.0, False), (0.999, True)])
def test_merging_in_eval_mode_is_no_defect_unless_weights_drift(monkeypatch, share, drifts):
    def adapt(net):
        net.requires_grad_(requires_grad=False)
        net[6] = Merging(net[6])
        return net

    monkeypatch.setattr(Merging, "unmerged_share", share)
    record = measured(fine_tune(adapt, also_train=["8"], seeds=2))
    assert record.status == "ok", record.error
    found = false_facts(record)
    assert found.get("frozen_unchanged") == ("6.weight" if drifts else None)
    assert bool(found) == drifts


def test_weights_that_nothing_merges_are_not_restored():
    layer = Merging(nn.Linear(4, 4)).eval()
    before = layer.weight.detach().clone()
    with evaluated(layer):
        layer.weight.data *= 1 + torch.finfo(torch.float32).eps
    assert not layer.weight.equal(before)


def test_a_wrong_merge_names_the_layer_and_one_that_raises_its_error(monkeypatch):
    def scaled(delta):
        return lambda layer, name: delta(layer, name) * (1.5 if layer.out_features == 8 else 1)

    record = broken(monkeypatch, Linear, "get_delta_weight", scaled)
    found = false_facts(record)
    assert set(found) == {"merge_equals_unmerged"}
    assert found["merge_equals_unmerged"].endswith("first in layer 6")
    assert record.defects.keys() == found.keys()
    defect = record.defects["merge_equals_unmerged"]
    assert (defect.error, defect.tensors) == (None, ["6"])
    assert f"by {defect.size:.2g} of the largest" in found["merge_equals_unmerged"]
    record = broken(monkeypatch, Linear, "get_delta_weight", lambda _: lambda *_: {}["6"])
    error = record.defects["merge_equals_unmerged"].error
    assert (error.type, error.message) == ("KeyError", "'6'")


class WearsOut(torch.optim.SGD):
    """Takes two steps, as many as are profiled."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        if self.taken > 2:
            raise OSError("worn out")
        return super().step(closure)


def test_an_error_says_after_how_many_steps_it_was_raised():
    def wears_out(model):
        return WearsOut([p for p in model.parameters() if p.requires_grad], lr=0.1)

    record = measured(fine_tune(LORA, optimizer=wears_out))
    assert (record.status, record.error.type, record.error.after_steps) == ("error", "OSError", 2)


@pytest.mark.parametrize(
    ("beside", "also_train", "module"),
    [
        ({"bias": "lora_only"}, (), "6.base_layer"),
        ({"modules_to_save": ["8"]}, (), "8.modules_to_save.default"),
        ({}, ("8",), "8"),
    ],
)
def test_what_trains_beside_an_adapter_and_is_not_loaded_is_seen(
    monkeypatch, beside, also_train, module
):
    """Where training has moved it little, too: the numbers are compared, and not the output."""
    case = fine_tune(
        peft.LoraConfig(r=2, target_modules=["6"], **beside),
        optimizer=lambda model: torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=1e-7, foreach=False
        ),
        also_train=also_train,
    )
    assert "saved_adapter_reloads" not in false_facts(measured(case))
    load = ConfigAdapter.load

    def forgetting(self, base, *args, **more):
        untrained = base.get_submodule(module.partition(".")[0]).bias.detach().clone()
        loaded = load(self, base, *args, **more)
        with torch.no_grad():
            loaded.get_parameter(f"base_model.model.{module}.bias").copy_(untrained)
        return loaded

    monkeypatch.setattr(ConfigAdapter, "load", forgetting)
    note = false_facts(measured(case))["saved_adapter_reloads"]
    assert note.startswith("the outputs differ by ")
    assert f"first in layer {module.partition('.modules_to_save')[0]}" in note


def without_one(save):
    def saving(model, *args, **settings):
        state = peft.get_peft_model_state_dict(model)
        del state["base_model.model.6.lora_B.weight"]
        return save(model, *args, state_dict=state, **settings)

    return saving


def clamped(update):
    return lambda self, name, r, *args, **more: update(self, name, min(r, 2), *args, **more)


LOADS = r"it loads base_model.model.6.lora_A.weight of shape \(4, 8\), without a word"
LAYER_6 = r"the outputs differ .*first in layer 6\."
ABSENT = "it loads a file without base_model.model.6.lora_A.weight, without a word"


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("saving-keeps-an-old-file", "the outputs differ"),
        ("loading-ignores-absent-tensors", ABSENT),
        ("loading-ignores-another-rank", LOADS),
    ],
)
@pytest.mark.usefixtures("sound")
def test_saving_or_loading_that_goes_wrong_unseen(name, note):
    with injected(CATALOGUE[name]):
        found = false_facts(measured(fine_tune(LORA)))
    assert found.keys() - {"resumed_equals_uninterrupted"} == {"saved_adapter_reloads"}
    assert re.match(note, found["saved_adapter_reloads"])


@pytest.mark.parametrize(
    ("owner", "name", "fault", "fact", "note"),
    [
        (peft.PeftModel, "save_pretrained", without_one, "saved_adapter_reloads", LAYER_6),
        (Linear, "update_layer", clamped, "doubled_rank_not_smaller", ""),
    ],
)
def test_a_tensor_that_is_not_saved_or_a_rank_that_is_clamped_unseen(  # noqa: PLR0917
    monkeypatch, sound, owner, name, fault, fact, note
):
    found = false_facts(broken(monkeypatch, owner, name, fault))
    assert found.keys() - {"resumed_equals_uninterrupted"} == {fact}
    assert re.match(note, found[fact])


def test_a_rank_at_which_whole_matrices_train_need_not_train_more():
    config = peft.LoKrConfig(r=8, target_modules=["6"])
    assert "doubled_rank_not_smaller" not in false_facts(measured(fine_tune(config)))
