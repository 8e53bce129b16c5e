"""HRA and BOFT multiply square matrices of all inputs at every forward pass.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU. This is about cost; the results are right.

Expected: Little more than LoRA. Let n be the number of inputs of one output (576 above), and o the number of
outputs.

- **HRA** is `W (I - 2uu') ...` with r vectors u: multiplied out from the left, as
  `(W - 2 (W u) u') ...`, it takes 4 r o n FLOPs, 0.6 million above.
- **BOFT** with one factor is a rotation in blocks of b inputs, which takes 2 b o n FLOPs, 0.3
  million above.

The cost grows with n cubed, so it is worst for wide layers: a convolution of 512 channels
and 3 x 3 has n = 4608.

Cause: - `HRALayer.get_delta_weight` (`tuners/hra/layer.py`) builds the n x n product of the reflections,
  and `forward` multiplies an n x n identity by it: 2 n^3 FLOPs that are not needed when one adapter
  is active. Much cheaper: `weight = weight - 2 * (weight @ u) @ u.t()` for each u in turn, on the
  weight itself.
- `Conv2d.forward` and `Linear.forward` in `tuners/boft/layer.py` multiply by the permutation
  `boft_P` twice and by an identity once, 6 n^3 FLOPs. With `boft_n_butterfly_factor=1`, the
  default, `boft_P` is the identity, so `torch.bmm` over the blocks is enough. With more factors,
  indexing by a permutation costs no FLOPs, and the n x n buffer is not needed either.
"""
# peft==0.21.2

import torch
from peft import BOFTConfig, HRAConfig, LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops(model):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 64, 16, 16))
    return counter.get_total_flops()


def net():
    return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))


alone = flops(net())
print(f"the convolution alone: {alone:,} FLOPs")
for config in (
    LoraConfig(r=4, target_modules=["0"]),
    HRAConfig(r=4, target_modules=["0"]),
    BOFTConfig(boft_block_size=4, target_modules=["0"]),
):
    counted = flops(get_peft_model(net(), config))
    print(f"{config.peft_type.value}: {counted:,} FLOPs, {counted / alone:.1f} times")

# It prints:
# the convolution alone: 18,874,368 FLOPs
# LORA: 20,185,088 FLOPs, 1.1 times
# HRA: 448,856,064 FLOPs, 23.8 times
# BOFT: 1,207,959,552 FLOPs, 64.0 times
