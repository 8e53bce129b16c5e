"""The projector keeps all singular vectors alive.

Seen with galore-torch 1.0, torch 2.13.0, Python 3.11, on CPU.

`GaLoreProjector` keeps `rank` singular vectors as a slice of the matrix of all singular vectors. A
slice is a view, so the whole matrix stays in memory as long as the projector does.

Expected: Only the bytes that are needed stay alive. In float32, the state of a weight (m, n) has min(m, n)^2
elements for the projection, of which r min(m, n) are used. GaLore is meant to save the others. In
lower precisions the cast makes a copy, so there the memory is right.

Cause: `GaLoreProjector.get_orthogonal_matrix` (`galore_projector.py`) returns `Vh[:rank, :]` or
`U[:, :rank]`. A `.clone()` of the returned slice frees the rest; training is the same bit
for bit. `A` and `B` are both computed although one is used: `torch.diag(s[:rank]) @ Vh[:rank, :]` and
its counterpart can be removed as well.
"""
# galore-torch==1.0

import torch
from galore_torch import GaLoreAdamW
from torch import nn

weight = nn.Parameter(torch.randn(256, 256))
group = {"params": [weight], "rank": 4, "update_proj_gap": 200, "scale": 1.0, "proj_type": "std"}
optimizer = GaLoreAdamW([group], no_deprecation_warning=True)
weight.grad = torch.randn(256, 256)
optimizer.step()

kept = optimizer.state[weight]["projector"].ortho_matrix
needed, alive = kept.numel() * kept.element_size(), kept.untyped_storage().nbytes()
print(f"{tuple(kept.shape)}: {needed:,} bytes needed, {alive:,} alive, {alive // needed} times")

# It prints:
# (4, 256): 4,096 bytes needed, 262,144 alive, 64 times
