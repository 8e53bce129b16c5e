"""HRA and BOFT ignore the dilation, padding mode and second stride and padding of a convolution.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

An untrained adapter must not change a layer's output. On these convolutions it changes the output's
shape or its values without an error, and on kernels that are not square it raises.

Expected: The same shape and the same values, or an error while wrapping, as for `groups` above 1.

Cause: `HRAConv2d.forward` (`tuners/hra/layer.py`) and `Conv2d.forward` (`tuners/boft/layer.py`) call

```python
F.conv2d(
    input=x,
    weight=...,
    bias=bias,
    padding=self.base_layer.padding[0],
    stride=self.base_layer.stride[0],
)
```

`self.base_layer._conv_forward(x, weight, bias)` of `nn.Conv2d` takes all settings of the layer, the
padding mode included. For the kernels, `kernel_size[0] * kernel_size[0]` must be
`kernel_size[0] * kernel_size[1]` everywhere in the two files.
"""
# peft==0.21.2

import torch
from peft import BOFTConfig, HRAConfig, get_peft_model
from torch import nn

for settings in (
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "stride": (2, 1)},
    {"kernel_size": 3, "padding": (1, 0)},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": (3, 1)},
):
    for config in (
        HRAConfig(r=2, target_modules=["0"]),
        BOFTConfig(boft_block_size=4, target_modules=["0"]),
    ):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Conv2d(4, 8, **settings))
        image = torch.randn(1, 4, 9, 9)
        expected = base(image)
        try:
            out = get_peft_model(base, config)(image)  # untrained: must be as before
            result = f"{tuple(expected.shape)} -> {tuple(out.shape)}"
            if out.shape == expected.shape:
                result += f", equal: {torch.allclose(out, expected, atol=1e-5)}"
        except RuntimeError as error:
            result = f"RuntimeError: {error}"
        print(config.peft_type.value, settings, result)

# It prints:
# HRA {'kernel_size': 3, 'dilation': 2} (1, 8, 5, 5) -> (1, 8, 7, 7)
# BOFT {'kernel_size': 3, 'dilation': 2} (1, 8, 5, 5) -> (1, 8, 7, 7)
# HRA {'kernel_size': 3, 'stride': (2, 1)} (1, 8, 4, 7) -> (1, 8, 4, 4)
# BOFT {'kernel_size': 3, 'stride': (2, 1)} (1, 8, 4, 7) -> (1, 8, 4, 4)
# HRA {'kernel_size': 3, 'padding': (1, 0)} (1, 8, 9, 7) -> (1, 8, 9, 9)
# BOFT {'kernel_size': 3, 'padding': (1, 0)} (1, 8, 9, 7) -> (1, 8, 9, 9)
# HRA {'kernel_size': 3, 'padding': 1, 'padding_mode': 'reflect'} (1, 8, 9, 9) -> (1, 8, 9, 9), equal: False
# BOFT {'kernel_size': 3, 'padding': 1, 'padding_mode': 'reflect'} (1, 8, 9, 9) -> (1, 8, 9, 9), equal: False
# HRA {'kernel_size': (3, 1)} RuntimeError: shape '[8, 36]' is invalid for input of size 96
# BOFT {'kernel_size': (3, 1)} RuntimeError: shape '[8, 36]' is invalid for input of size 96
