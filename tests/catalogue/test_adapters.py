"""The methods of peft: what they refuse, how they start, step, prune, and what peft gets wrong."""

import math
import re

import peft
import peft.optimizers
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from tiny_methods import One, adapted, each, loaded, method_named, trained
from tiny_network import tiny_data
from torch import nn

from peft_regress.catalogue.built_in import STEPS
from peft_regress.catalogue.methods import DORA, LORA
from peft_regress.errors import UnsupportedCaseError

ADALORA, LORA_FA, LORA_PLUS = (method_named(name) for name in ("adalora", "lorafa", "loraplus"))
STEM = "base_model.model."

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The symmetric initialization can NOT:UserWarning"),
]


@each(*map(method_named, ("lora", "lorafa", "oft", "hra", "boft")))
def test_no_eligible_layer_is_an_unsupported_case(method):
    model = One(nn.Conv2d(3, 3, kernel_size=3, groups=3))
    message = f"{method.name}: One has none of its targets, {method.targets.description} "
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        method.at(2, heads=("head",)).adapt(model, seed=0)


@each(LORA, method_named("ln_tuning"))
def test_a_release_without_the_configuration_is_an_unsupported_case(method, monkeypatch):
    monkeypatch.delattr(peft, method.config)
    message = f"{method.name}: peft {peft.__version__} has no {method.config}"
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        adapted(method)


@each(LORA, DORA, LORA_PLUS, method_named("rslora"))
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scaling_is_one_at_every_rank_and_if_rank_stabilized_the_root_of_it(method, rank):
    model = adapted(method, rank=rank)
    scalings = [m.scaling["default"] for m in model.modules() if hasattr(m, "scaling")]
    assert scalings == [math.sqrt(rank) if method.name == "rslora" else 1.0] * 2


def test_loraplus_trains_b_at_the_ratio_times_the_rate_of_a():
    model = adapted(LORA_PLUS)
    names = {id(p): name.removeprefix(STEM) for name, p in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] / LORA_PLUS.learning_rate
        for group in LORA_PLUS.at(2).make_optimizer(model).param_groups
        for parameter in group["params"]
    }
    assert rates == {
        "conv.lora_A.default.weight": 1,
        "conv.lora_B.default.weight": 4,
        "linear.lora_A.default.weight": 1,
        "linear.lora_B.default.weight": 4,
        "head.weight": 1,
        # Whatever has one dimension goes with B, in the reference code too.
        "head.bias": 4,
    }


def test_lorafa_keeps_a_at_its_draw_and_ships_it():
    name = f"{STEM}linear.lora_A.default.weight"
    before, model = adapted(LORA_FA).get_parameter(name), trained(LORA_FA)
    assert torch.equal(model.get_parameter(name), before)
    assert name.replace(".default", "") in LORA_FA.shipped_tensors(model)


def _ranks(model):
    return [int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]


def test_adalora_prunes_down_to_its_budget_after_the_first_losses():
    """Ranks 3 and 3 at first; the budget of 2 and 2 is shared by what the gradients weigh."""
    declared = ADALORA.at(4).hyperparameters()
    found = (declared["total_step"], declared["init_r"], declared["target_r"])
    assert found == (STEPS, 6, 4)
    ranks = {steps: _ranks(trained(ADALORA, steps=steps)) for steps in (5, 6, 10, 14, STEPS)}
    assert ranks[5] == [3, 3]
    budgets = [sum(one) for one in ranks.values()]
    assert budgets == sorted(budgets, reverse=True)
    assert 6 > budgets[1] > budgets[-2] == budgets[-1] == 4


def test_a_pruned_adapter_ships_the_ranks_that_are_left_and_reloads(tmp_path):
    model = trained(ADALORA)
    left = _ranks(model)
    assert left != [3, 3]
    shipped = ADALORA.shipped_tensors(model)
    assert [len(t) for name, t in shipped.items() if name.endswith(".lora_E")] == left
    ADALORA.save(model, tmp_path)
    fresh = loaded(ADALORA, tmp_path)
    assert _ranks(fresh) == left
    images = tiny_data().test_images
    assert torch.equal(fresh(images), model(images))


def test_boft_never_tries_to_compile_and_leaves_peft_as_it_was(monkeypatch):
    def compiling(**_options):
        pytest.fail("BOFT compiles an extension")

    monkeypatch.setattr("torch.utils.cpp_extension.load", compiling)
    before = boft_layer._FBD_CUDA
    layers = [
        m for m in adapted(method_named("boft")).modules() if hasattr(m, "fbd_cuda_available")
    ]
    assert [layer.fbd_cuda_available for layer in layers] == [False]
    assert boft_layer._FBD_CUDA is before
