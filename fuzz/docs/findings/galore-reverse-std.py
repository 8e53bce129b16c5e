"""`proj_type="reverse_std"` raises on wide matrices when the rank reaches the smaller side.

Seen with galore-torch 1.0, torch 2.13.0, Python 3.11, on CPU.

Expected: All three work. If one rank is given for all layers of a network, it is often larger than the
smaller side of some of them.

Cause: `GaLoreProjector.project_back` (`galore_projector.py`) infers the side of the projection from the
shape of the low-rank gradient. When (8, 32) is projected from the right at rank 8, the result is
(8, 8), and the test `shape[0] <= shape[1]` treats it as projected from the left. The projection's
own shape distinguishes the two: `ortho_matrix` is (m, r), at least as tall as wide, for the left,
and (r, n) for the right.

```diff
-if low_rank_grad.shape[0] <= low_rank_grad.shape[1]: # note this is different from std
+if self.ortho_matrix.shape[0] >= self.ortho_matrix.shape[1]:
```

With that all three lines print `works`.
"""
# galore-torch==1.0

import torch
from galore_torch import GaLoreAdamW
from torch import nn

for shape, rank in (((8, 32), 4), ((32, 8), 8), ((8, 32), 8)):
    weight = nn.Parameter(torch.zeros(shape))
    group = {
        "params": [weight],
        "rank": rank,
        "update_proj_gap": 200,
        "scale": 1.0,
        "proj_type": "reverse_std",
    }
    optimizer = GaLoreAdamW([group], no_deprecation_warning=True)
    weight.grad = torch.randn(shape)
    try:
        optimizer.step()
        print(shape, "at rank", rank, "works")
    except RuntimeError as error:
        print(shape, "at rank", rank, "RuntimeError:", error)

# It prints:
# (8, 32) at rank 4 works
# (32, 8) at rank 8 works
# (8, 32) at rank 8 RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x32 and 8x8)
