"""`FlopCounterMode` counts the weight gradient of a grouped convolution `groups` times too high.

Seen with torch 2.13.0, Python 3.11, on CPU.

Expected: The weight gradient counts as many FLOPs as the forward pass of the same layer, which is counted
correctly. A depthwise convolution has as many groups as channels, so there the error is a factor of
hundreds: the backward pass of torchvision's mobilenet_v2 at batch 1 and 224 x 224 is counted as
11.67 GFLOP, and takes 1.18.

Cause: `conv_backward_flop` in `torch/utils/flop_counter.py` ignores `_groups`. For the weight's gradient
it passes `conv_flop_count` the transposed shapes of input and gradient, whose product of channels
is in * out; that of the weight is in / groups * out. Both branches of `output_mask[1]` need `//
_groups`; with this change the script prints `1 times` in every line. The gradient of the input is
counted correctly, because it uses the weight's own shape.
"""
# torch==2.13.0

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

for groups in (1, 2, 8):
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False, groups=groups)
    out = conv(torch.zeros(1, 8, 16, 16))  # the input takes no gradient, the weight does
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    counted = counter.get_total_flops()
    # Each element of out takes in_channels / groups * 9 products, and each of them is one
    # multiply-add in the weight's gradient.
    exact = 2 * out.numel() * conv.weight[0].numel()
    print(f"groups={groups}: counted {counted:,}, exact {exact:,}, {counted // exact} times")

# It prints:
# groups=1: counted 294,912, exact 294,912, 1 times
# groups=2: counted 294,912, exact 147,456, 2 times
# groups=8: counted 294,912, exact 36,864, 8 times
