"""LoRA with `lora_bias`: a merge that is refused has changed the base.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

A layer without a bias cannot merge an adapter with `lora_bias=True`; a warning says so when it is added,
and merging raises. But the weight has the update by then, and the layer does not count as merged. So
the model computes with the update twice, and unmerging or disabling the adapter does not take it out.

Expected: `True` twice, as with `safe_merge=True`, which huggingface/peft#3611 mended.

Cause: `Linear.merge` in `tuners/lora/layer.py` adds the update to the weight, and looks for the bias
after it; `_ConvNd.merge` likewise. With the test for a bias before the addition, the script prints
`True` twice.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

for safe in (True, False):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8, bias=False))
    before = base[0].weight.clone()
    config = LoraConfig(target_modules=["0"], lora_bias=True, init_lora_weights=False)
    model = get_peft_model(base, config)
    try:
        model.merge_adapter(safe_merge=safe)
    except RuntimeError:
        is_same = torch.equal(base[0].base_layer.weight, before)
        print(f"refused with safe_merge={safe}, and the base is as it was: {is_same}")

# It prints:
# refused with safe_merge=True, and the base is as it was: True
# refused with safe_merge=False, and the base is as it was: False
