"""LoRA on `nn.MultiheadAttention` applies the update of `out_proj` twice.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Expected: The update is applied 1.00 times. The unmerged forward pass merges and unmerges, so it is wrong too.

Cause: `MultiheadAttention.merge` in `tuners/lora/layer.py` adds `out_proj`'s update to its weight and then
calls `base_layer.out_proj.merge(...)`, which adds it again. `unmerge` subtracts it twice, so the
original weight comes back and hides the defect. Without the first of the two additions (and
subtractions) the script prints 1.00.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


torch.manual_seed(0)
base = Net()
weight = base.attention.out_proj.weight.detach().clone()
config = LoraConfig(r=2, lora_alpha=2, target_modules=["attention"], init_lora_weights=False)
model = get_peft_model(base, config)
out_proj = model.base_model.model.attention.base_layer.out_proj
delta = out_proj.lora_B["default"].weight @ out_proj.lora_A["default"].weight
merged = model.merge_and_unload()
change = merged.attention.out_proj.weight - weight
print(f"the merged weight moved by {(change.norm() / delta.norm()).item():.2f} times the update")

# It prints:
# the merged weight moved by 2.00 times the update
