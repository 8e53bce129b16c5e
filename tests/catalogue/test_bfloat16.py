"""Methods on a bfloat16 base: what is cast and what is not, and what a library gets wrong there."""

import pytest
import torch
from tiny_methods import ALL, adapted, cast_base, each, rank_of, trained
from tiny_network import tiny_data, tiny_network
from tiny_training import finetune

ON_BFLOAT16 = tuple(method for method in ALL if method.base_dtype == "bfloat16")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]


# What is cast


def test_the_base_is_cast_with_its_statistics_and_its_counters_are_not():
    model = cast_base(tiny_network(), "bfloat16")
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert types.pop("norm.num_batches_tracked") == torch.int64
    assert set(types.values()) == {torch.bfloat16}
    assert types.keys() >= {"norm.running_mean", "head.weight"}


@each(*ALL)
def test_base_keeps_its_type_and_adapters_are_in_float32(method):
    base_dtype = getattr(torch, method.base_dtype)
    tensors = tiny_network().state_dict()
    for model in (adapted(method), trained(method)):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            # Norm tuning trains copies of whole layers, which stay what they are copies of.
            of_base = plain in tensors or ".ln_tuning_layers." in name
            wanted = base_dtype if of_base else torch.float32
            assert tensor.dtype in {wanted, torch.int64}, name


@each(*ON_BFLOAT16)
def test_nothing_but_adapters_computes_in_float32(method):
    """Every layer of the base, the head included, is given bfloat16 and gives bfloat16."""
    model = adapted(method)
    seen = {}
    base = {id(parameter) for parameter in model.parameters() if parameter.dtype == torch.bfloat16}
    for name, module in model.named_modules():
        if any(id(parameter) in base for parameter in module.parameters(recurse=False)):
            module.register_forward_hook(
                lambda _, given, got, name=name: seen.setdefault(name, set()).update(
                    {given[0].dtype, got.dtype}
                )
            )
    logits = model(tiny_data("bfloat16").test_images)
    assert logits.dtype == torch.bfloat16
    assert "head" in {name.rpartition(".")[2] for name in seen}
    assert set().union(*seen.values()) == {torch.bfloat16}


# Training


@each(*ON_BFLOAT16)
def test_training_is_reproducible_to_the_bit(method):
    def losses():
        model = adapted(method)
        return finetune(
            model,
            method.at(rank_of(method)).make_optimizer(model),
            tiny_data("bfloat16"),
            steps=4,
            batch_size=16,
            seed=0,
        ).losses

    first = losses()
    torch.manual_seed(5)
    assert losses() == first
    assert len(set(first)) == 4
