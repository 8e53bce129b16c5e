"""Methods on a bfloat16 base: what is cast and what is not."""

import pytest
import torch
from tiny_methods import ALL, adapted, each, trained
from tiny_network import tiny_network

ON_BFLOAT16 = tuple(method for method in ALL if method.base_dtype == "bfloat16")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]


@each(*ON_BFLOAT16)
def test_base_keeps_its_type_and_adapters_are_in_float32(method):
    tensors = tiny_network().state_dict()
    for model in (adapted(method), trained(method)):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            # Norm tuning trains copies of whole layers, which stay what they are copies of.
            of_base = plain in tensors or ".ln_tuning_layers." in name
            wanted = torch.bfloat16 if of_base else torch.float32
            assert tensor.dtype in {wanted, torch.int64}, name
