"""Adapters of convolutions pad with zeros whatever `padding_mode` is.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

On a convolution with `padding_mode` "circular", "reflect" or "replicate", the adapters below add
the result of a convolution that pads with zeros. Once it is merged, the update is convolved with the
padding of the layer. So merging changes what the model computes.

Expected: `True` in each line, as with zeros.

Cause: LoRA makes its convolution A with the kernel, stride and padding of the layer
(`_ConvNd.update_layer` of `tuners/lora/layer.py`) but not with its `padding_mode`. The others call
`F.conv2d` with the padding of the layer. `base_layer._conv_forward(x, weight, None)` takes all
settings of the layer, the padding mode included.
"""
# peft==0.21.2

import torch
from peft import AdaLoraConfig, HiraConfig, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from torch import nn

for config in (
    LoraConfig(r=2),
    AdaLoraConfig(init_r=2, total_step=10),
    LoHaConfig(r=2),
    LoKrConfig(r=2),
    HiraConfig(r=2),
):
    for mode in ("zeros", "circular"):
        torch.manual_seed(0)
        config.target_modules = ["0"]
        base = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode))
        model = get_peft_model(base, config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
        x = torch.randn(1, 4, 6, 6)
        with torch.no_grad():
            before = model(x)
            model.merge_adapter()
            same = torch.allclose(model(x), before, rtol=1e-3, atol=1e-3)
        print(f"{config.peft_type.value}, padding_mode={mode}: merging changes nothing: {same}")

# It prints:
# LORA, padding_mode=zeros: merging changes nothing: True
# LORA, padding_mode=circular: merging changes nothing: False
# ADALORA, padding_mode=zeros: merging changes nothing: True
# ADALORA, padding_mode=circular: merging changes nothing: False
# LOHA, padding_mode=zeros: merging changes nothing: True
# LOHA, padding_mode=circular: merging changes nothing: False
# LOKR, padding_mode=zeros: merging changes nothing: True
# LOKR, padding_mode=circular: merging changes nothing: False
# HIRA, padding_mode=zeros: merging changes nothing: True
# HIRA, padding_mode=circular: merging changes nothing: False
