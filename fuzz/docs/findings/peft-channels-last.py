"""DoRA, HRA and BOFT raise on convolutions whose weights are channels last.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`model.to(memory_format=torch.channels_last)` is the usual way to train CNNs fast on CPUs and tensor
cores. After it, the forward pass of these three adapters raises on kernels larger than 1 x 1, and
so does merging OFT. LoRA, LoHa, LoKr, HiRA, AdaLoRA and IA3 work.

Expected: All four accept the image, as the base layer does. A memory format affects speed and must not
change what a model can do.

Cause: These call `Tensor.view` on a four-dimensional weight, which works only for the contiguous layout:

- `_DoraConvNdLayer.get_lora_weight` in `tuners/lora/dora.py`: `lora_B.weight.view([-1, r])`,
  `lora_A.weight.view([r, -1])`; `DoraLinearLayer.update_layer` has the same call.
- `HRAConv2d.forward` in `tuners/hra/layer.py`, and `Conv2d.forward` in `tuners/boft/layer.py`:
  `orig_weight.view(self.out_features, ...)`. Their `merge` and `unmerge` have it too, and OFT's
  `merge` as well.

`reshape` instead of `view` is enough: it returns the same view if one is possible, and a copy
otherwise. With that change all four lines above print a shape.
"""
# peft==0.21.2

import torch
from peft import BOFTConfig, HRAConfig, LoraConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)

    def forward(self, x):
        return self.conv(x)


configs = {
    "LoRA": LoraConfig(r=2, target_modules=["conv"]),
    "DoRA": LoraConfig(r=2, target_modules=["conv"], use_dora=True),
    "HRA": HRAConfig(r=2, target_modules=["conv"]),
    "BOFT": BOFTConfig(boft_block_size=4, target_modules=["conv"]),
}
image = torch.zeros(1, 4, 8, 8).to(memory_format=torch.channels_last)
for name, config in configs.items():
    model = get_peft_model(Net(), config).to(memory_format=torch.channels_last)
    try:
        print(name, tuple(model(image).shape))
    except RuntimeError as error:
        print(name, "RuntimeError:", str(error).partition(" (")[0])

# It prints:
# LoRA (1, 8, 6, 6)
# DoRA RuntimeError: view size is not compatible with input tensor's size and stride
# HRA RuntimeError: view size is not compatible with input tensor's size and stride
# BOFT RuntimeError: view size is not compatible with input tensor's size and stride
