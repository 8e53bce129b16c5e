"""A second VeRA or RandLoRA adapter of smaller rank raises when it is used.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

VeRA and RandLoRA share their frozen matrices among adapters. A second adapter of a larger rank is
refused when it is added, with the advice to add the larger one first. A smaller one, added after the
larger as the advice says, is accepted, and then each forward pass and each merge raises.

Expected: That the smaller adapter works with the first rows of A and columns of B, as smaller layers do, or
that it is refused when it is added. The message of the refused order says that "loading the adapters
in reverse order may solve this".

Cause: `forward` and `get_delta_weight` (`tuners/vera/layer.py`) slice the shared matrices by the layer's
features, `vera_A[:, : self.in_features]`, and not by the adapter's rank. In VeRA, also slicing by it

```python
rank = self.r[active_adapter]
sliced_A = vera_A[:rank, : self.in_features]
sliced_B = vera_B[: self.out_features, :rank]
```

in both gives an output for rank 4, then 2. RandLoRA keeps a basis of each rank, so that a clear error
in `update_layer` is the smaller change there.
"""
# peft==0.21.2

import torch
from peft import RandLoraConfig, VeraConfig, get_peft_model
from torch import nn

for config in (VeraConfig, RandLoraConfig):
    for first, second in ((2, 4), (4, 2)):
        net = nn.Sequential(nn.Linear(8, 4))
        model = get_peft_model(net, config(r=first, target_modules=["0"]))
        title = f"{config.__name__}, rank {first}, then {second}:"
        try:
            model.add_adapter("second", config(r=second, target_modules=["0"]))
        except ValueError:
            print(title, "ValueError when it is added")
            continue
        model.set_adapter("second")
        try:
            print(title, tuple(model(torch.ones(1, 8)).shape))
        except RuntimeError as error:
            print(title, f"RuntimeError when it is used: {error}")

# It prints:
# VeraConfig, rank 2, then 4: ValueError when it is added
# VeraConfig, rank 4, then 2: RuntimeError when it is used: The size of tensor a (2) must match the size of tensor b (4) at non-singleton dimension 1
# RandLoraConfig, rank 2, then 4: ValueError when it is added
# RandLoraConfig, rank 4, then 2: RuntimeError when it is used: The size of tensor a (2) must match the size of tensor b (4) at non-singleton dimension 0
