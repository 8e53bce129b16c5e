"""A convolution's weight in a group with a rank raises in the first step.

Seen with galore-torch 1.0, torch 2.13.0, Python 3.11, on CPU.

Expected: Either the step treats the weight as a matrix (out, in * height * width), or making the optimizer
raises an error which says that weights must have two dimensions. At present CNNs can use GaLore for
their linear layers only, and the error message comes from `torch.diag`.

Cause: `GaLoreProjector.project` compares `shape[0]` with `shape[1]` and takes the SVD of the gradient in
its own shape, which for four dimensions is a batch of SVDs. A fix is `grad.flatten(start_dim=1)`
before `project` and `.view_as(p)` after `project_back`, in `AdamW.step` (and in `adamw8bit.py` and
`adafactor.py`).
"""
# galore-torch==1.0

import torch
from galore_torch import GaLoreAdamW
from torch import nn

for shape in ((8, 4), (8, 4, 3, 3)):
    weight = nn.Parameter(torch.zeros(shape))
    group = {
        "params": [weight],
        "rank": 2,
        "update_proj_gap": 200,
        "scale": 1.0,
        "proj_type": "std",
    }
    optimizer = GaLoreAdamW([group], no_deprecation_warning=True)
    weight.grad = torch.randn(shape)
    try:
        optimizer.step()
        print(shape, "works")
    except RuntimeError as error:
        print(shape, "RuntimeError:", error)

# It prints:
# (8, 4) works
# (8, 4, 3, 3) RuntimeError: diag(): Supports 1D or 2D tensors. Got 3D
