"""The methods of peft: what they refuse, how they start, step, prune, and what peft gets wrong."""

import math
import re

import peft
import peft.optimizers
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from tiny_methods import One, adapted, each, loaded, method_named, trained
from tiny_network import tiny_data, tiny_network
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


# Refusals


@each(*map(method_named, ("lora", "lorafa", "oft", "hra", "boft")))
def test_no_eligible_layer_is_an_unsupported_case(method):
    model = One(nn.Conv2d(3, 3, kernel_size=3, groups=3))
    message = f"{method.name}: One has none of its targets, {method.targets.description} "
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        method.at(2, heads=("head",)).adapt(model, seed=0)


def test_the_librarys_own_value_error_goes_through():
    with pytest.raises(ValueError, match="positive integer"):
        LORA.at(0, heads=("head",)).adapt(tiny_network(), seed=0)


@each(LORA, method_named("ln_tuning"))
def test_a_release_without_the_configuration_is_an_unsupported_case(method, monkeypatch):
    monkeypatch.delattr(peft, method.config)
    message = f"{method.name}: peft {peft.__version__} has no {method.config}"
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        adapted(method)


@each(LORA_FA, LORA_PLUS)
def test_a_release_without_the_optimizer_is_an_unsupported_case(method, monkeypatch):
    monkeypatch.delattr(peft.optimizers, f"create_{method.name}_optimizer")
    message = f"peft {peft.__version__} has no create_{method.name}_optimizer in peft.optimizers"
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        method.at(2).make_optimizer(adapted(method))


# LoRA and its kin


@each(LORA, DORA, LORA_PLUS, method_named("rslora"))
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scaling_is_one_at_every_rank_and_if_rank_stabilized_the_root_of_it(method, rank):
    model = adapted(method, rank=rank)
    scalings = [m.scaling["default"] for m in model.modules() if hasattr(m, "scaling")]
    assert scalings == [math.sqrt(rank) if method.name == "rslora" else 1.0] * 2


def test_loraplus_trains_b_at_the_ratio_times_the_rate_of_a():
    model = adapted(LORA_PLUS)
    rate_of = {
        id(parameter): group["lr"]
        for group in LORA_PLUS.at(2).make_optimizer(model).param_groups
        for parameter in group["params"]
    }
    rates = {
        name.removeprefix(STEM): rate_of[id(parameter)]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    low = LORA_PLUS.learning_rate
    high = 4 * low
    assert rates == {
        "conv.lora_A.default.weight": low,
        "conv.lora_B.default.weight": high,
        "linear.lora_A.default.weight": low,
        "linear.lora_B.default.weight": high,
        "head.weight": low,
        # Whatever has one dimension goes with B, in the reference code too.
        "head.bias": high,
    }


# LoRA-FA


def test_lorafa_keeps_a_at_its_draw_and_ships_it():
    name = f"{STEM}linear.lora_A.default.weight"
    before, model = adapted(LORA_FA).get_parameter(name), trained(LORA_FA)
    assert torch.equal(model.get_parameter(name), before)
    assert name.replace(".default", "") in LORA_FA.shipped_tensors(model)


# AdaLoRA


def test_adalora_is_scheduled_over_the_steps_of_a_run():
    declared = ADALORA.at(4).hyperparameters()
    assert declared["total_step"] == STEPS
    assert (declared["init_r"], declared["target_r"]) == (6, 4)


def _ranks(model):
    return [int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]


def _after(steps):
    return _ranks(trained(ADALORA, steps=steps))


def test_adalora_prunes_down_to_its_budget_after_the_first_losses():
    """Ranks 3 and 3 at first; the budget of 2 and 2 is shared by what the gradients weigh."""
    assert _after(5) == [3, 3]
    budgets = [sum(_after(steps)) for steps in (6, 8, 10, 12, 14, STEPS)]
    assert budgets[0] < 6
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-2:] == [4, 4]


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


# BOFT


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
