"""One forward pass in eval mode, without gradients: against closed forms and the allocator."""

import warnings

import pytest
import torch
import torchvision
from memory_check import allocator_peak
from network_zoo import BOTH, Branching
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peft_regress.cost import Call, NeedsValuesError, RandomTensor, profile_inference

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft


IMAGE = (2, 3, 32, 32)


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10)


def adapted(model, *, dora=False):
    config = peft.LoraConfig(
        r=4, lora_alpha=4, use_dora=dora, target_modules=r".*layer1\.\d\.conv\d"
    )
    return peft.get_peft_model(model, config)


def products(model, x):
    """Count a forward pass as torch does."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    return counter.get_total_flops()


def test_an_attached_adapter_costs_its_products_and_a_merged_one_nothing():
    x = torch.randn(IMAGE)
    plain = profile_inference(resnet(), x)
    model = adapted(resnet())
    attached = profile_inference(model, x)
    assert attached.inference_flops == products(model, x)
    assert attached.inference_flops > plain.inference_flops
    model.merge_adapter()
    merged = profile_inference(model, x)
    assert merged.inference_flops == plain.inference_flops
    adapter = 4 * sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert plain.peak_bytes + adapter == merged.peak_bytes <= attached.peak_bytes
    model.unmerge_adapter()
    bare = model.merge_and_unload()
    assert profile_inference(bare, x) == plain


@pytest.mark.parametrize(
    "make",
    [resnet, lambda: adapted(resnet()), lambda: nn.TransformerEncoderLayer(8, 2, 16)],
    ids=["plain", "lora", "transformer"],
)
def test_the_peak_is_the_allocator_s(make):
    shape = (5, 3, 8) if isinstance(make(), nn.TransformerEncoderLayer) else IMAGE

    def step():
        model, x = make().eval(), torch.randn(shape)

        @torch.no_grad()
        def run():
            output = model(x)
            del output

        return run

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        allocator = allocator_peak(step)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    cost = profile_inference(make(), RandomTensor(shape))
    assert allocator.tensor_peak_bytes == cost.peak_bytes


@BOTH
def test_the_model_is_unchanged_and_keeps_its_modes(fake):
    model = resnet().train()
    model.get_submodule("bn1").eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile_inference(model, torch.randn(IMAGE), fake=fake)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not any(p.grad is not None for p in model.parameters())


class Summing(nn.Module):
    def forward(self, a, b, *, scale):
        return (a @ b) * scale


@pytest.mark.parametrize(
    "batch",
    [
        Call((torch.ones(2, 3), torch.ones(3, 4)), {"scale": torch.ones(1)}),
        {"a": torch.ones(2, 3), "b": torch.ones(3, 4), "scale": torch.ones(1)},
    ],
    ids=["call", "mapping"],
)
def test_a_model_without_parameters_takes_its_arguments_as_they_are_given(batch):
    cost = profile_inference(Summing(), batch)
    assert cost.inference_flops == 2 * 2 * 3 * 4
    assert cost.peak_bytes == 4 * (2 * 3 + 3 * 4 + 1 + 2 * 2 * 4)


def test_a_model_that_needs_values_runs_on_real_copies_and_the_result_says_so():
    cost = profile_inference(Branching(3, 2), torch.ones(1, 3))
    assert cost.inference_flops == 2 * 3 * 2
    assert cost.tensors == "real tensors"
    with pytest.raises(NeedsValuesError):
        profile_inference(Branching(3, 2), torch.ones(1, 3), fake=True)
