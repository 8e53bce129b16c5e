"""LoHa, LoKr, HiRA and AdaLoRA run every convolution twice.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU. This is about cost; the results are right.

Expected: Little more than one convolution. These methods build the update of the weight in full size in any
case. So one convolution with the sum of weight and update gives the same output at half the FLOPs,
and the gradient of the input takes one pass too. LoRA's two thin convolutions show how little an
update can cost.

Cause: The forward passes of `tuners/lycoris_utils.py` (LoHa, LoKr), `tuners/hira/layer.py` and
`SVDConv2d.forward` in `tuners/adalora/layer.py` call `self.base_layer(x)` and add a second
convolution with the update. If nothing is between the two (dropout is zero, the base layer is a
plain convolution), they could convolve once with `base.weight + update`. Calling the base layer is
preferred for hooks and quantized layers; a fast path for plain convolutions alone would not change
these. DoRA had the same cost before peft 0.15, and has reused the base's result since then.
"""
# peft==0.21.2

import torch
from peft import AdaLoraConfig, HiraConfig, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def convolution_flops(model):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 64, 16, 16))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution]


def net():
    return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))


alone = convolution_flops(net())
print(f"the convolution alone: {alone:,} FLOPs")
target = {"target_modules": ["0"]}
for config in (
    LoraConfig(r=4, **target),
    LoHaConfig(r=4, **target),
    LoKrConfig(r=4, **target),
    HiraConfig(r=4, **target),
    AdaLoraConfig(init_r=4, target_r=2, total_step=10, **target),
):
    flops = convolution_flops(get_peft_model(net(), config))
    print(f"{config.peft_type.value}: {flops:,} FLOPs, {flops / alone:.2f} times")

# It prints:
# the convolution alone: 18,874,368 FLOPs
# LORA: 20,185,088 FLOPs, 1.07 times
# LOHA: 37,748,736 FLOPs, 2.00 times
# LOKR: 37,748,736 FLOPs, 2.00 times
# HIRA: 38,043,648 FLOPs, 2.02 times
# ADALORA: 37,748,736 FLOPs, 2.00 times
