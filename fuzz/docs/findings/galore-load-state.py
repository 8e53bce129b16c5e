"""The optimizer's state cannot be loaded by `torch.load` with its default.

Seen with galore-torch 1.0, torch 2.13.0, Python 3.11, on CPU.

Expected: The checkpoint loads with the default of `torch.load`. Since torch 2.6 this accepts only tensors and
plain values, so that a checkpoint cannot run code, and trainers resume that way.

Cause: `AdamW.step` keeps the `GaLoreProjector` object itself as `state["projector"]`. Only its
`ortho_matrix` is state; the rest is in the parameter group. A fix is to keep the tensor as
`state["ortho_matrix"]` and to make the projector from the group. `Optimizer.load_state_dict` would
then also move the tensor to the parameter's device: it does this for tensors, but not for objects
that contain tensors.
"""
# galore-torch==1.0

import io
import pickle

import torch
from galore_torch import GaLoreAdamW
from torch import nn

weight = nn.Parameter(torch.zeros(8, 8))
group = {"params": [weight], "rank": 2, "update_proj_gap": 200, "scale": 1.0, "proj_type": "std"}
optimizer = GaLoreAdamW([group], no_deprecation_warning=True)
weight.grad = torch.ones(8, 8)
optimizer.step()

file = io.BytesIO()
torch.save(optimizer.state_dict(), file)
file.seek(0)
try:
    torch.load(file)
    print("loaded")
except pickle.UnpicklingError as error:
    refused = [word for word in str(error).split() if word.startswith("galore_torch.")]
    print("UnpicklingError, refused:", refused[0])

# It prints:
# UnpicklingError, refused: galore_torch.galore_projector.GaLoreProjector
