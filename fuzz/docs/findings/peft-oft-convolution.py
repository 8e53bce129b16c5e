"""OFT on convolutions with kernels above 1 x 1: an untrained adapter changes the output.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU. The script prints the norm of the change,
relative to the norm of the output.

Expected: 0.0 in all lines, because OFT's rotation starts as the identity. The merged model gives
0.0; so merging changes what a model computes. A trained adapter, too, computes different functions
before and after merging.

Cause: `Conv2d.forward` in `tuners/oft/layer.py` splits the input into patches, rotates them, and
puts them together again before it calls the convolution (line 233,
`x_reshaped = x_reshaped.permute(0, 3, 1, 2, 4, 5).contiguous()`). Three things are wrong with this:

1. This line permutes to (batch, channels, out_height, out_width, kernel_height, kernel_width), and
   the next one views that as (batch, channels * kernel, positions). `torch.nn.functional.fold`
   expects the kernel's dimensions before the positions: `permute(0, 3, 4, 5, 1, 2)`.
2. Even then `fold` sums over all patches that a pixel is in, up to nine for 3 x 3. Dividing by
   their number would make the start an identity. But each patch rotates a pixel differently, so the
   pixel has no single rotated value, and no input of the convolution gives the merged function.
3. The patches are taken without the layer's padding, so a map smaller than the kernel raises an
   error. huggingface/peft#3150 is about kernels that are not square.

Rotating the weight instead, as `merge` does and as peft 0.14 did, avoids all three, and needs no
memory for patches:

    weight = (self.oft_R[adapter].get_weight() @ base.weight.flatten(1).T).T.view_as(base.weight)

With a forward pass that convolves with this weight, the script prints 0.0 in all lines, and an
adapter with random weights computes the same before and after merging.
"""
# peft==0.21.2

import torch
from peft import OFTConfig, get_peft_model
from torch import nn


def relative_change(kernel_size, size):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(4, 8, kernel_size, padding=kernel_size // 2))
    image = torch.randn(1, 4, size, size)
    expected = base(image)
    # Its weights start at zero, so that the rotation is the identity.
    model = get_peft_model(base, OFTConfig(r=0, oft_block_size=4, target_modules=["0"]))
    unmerged = model(image)
    merged = model.merge_and_unload()(image)
    return [f"{((y - expected).norm() / expected.norm()).item():.1f}" for y in (unmerged, merged)]


for kernel_size, size in ((1, 8), (3, 8), (3, 2)):
    try:
        unmerged, merged = relative_change(kernel_size, size)
        result = f"untrained adapter changes the output by {unmerged}, merged by {merged}"
    except RuntimeError as error:
        result = f"RuntimeError: {error}"
    print(f"{kernel_size}x{kernel_size} on {size}x{size}: {result}")

# It prints:
# 1x1 on 8x8: untrained adapter changes the output by 0.0, merged by 0.0
# 3x3 on 8x8: untrained adapter changes the output by 2.9, merged by 0.0
# 3x3 on 2x2: RuntimeError: maximum size for tensor at dimension 2 is 2 but size is 3
