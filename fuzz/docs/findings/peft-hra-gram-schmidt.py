"""HRA with `apply_GS=True` starts from the direction of rounding errors.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

HRA starts with pairs of equal vectors, whose reflections cancel, so that an untrained adapter
changes nothing. With `apply_GS=True` the vectors are made orthogonal first. Of two equal vectors
nothing is left of the second but rounding errors, and these are divided by their norm: the start
depends on them, and gradients are more than ten million times as large, or NaN.

Expected: No gradient of that size. Orthogonal reflections cannot cancel, so the start is not the identity
with `apply_GS=True`; the documentation of `init_weights` should say that.

Cause: `HRALayer.update_layer` (`tuners/hra/layer.py`) makes pairs for `init_weights=True` whatever
`apply_GS` is. With

```python
if init_weights and not apply_GS:
    self.reset_hra_parameters(adapter_name)
else:
    self.reset_hra_parameters_random(adapter_name)
```

the vectors of `apply_GS=True` differ, and the last line is `False`.
"""
# peft==0.21.2

import torch
from peft import HRAConfig, get_peft_model
from torch import nn

for orthogonal in (False, True):
    torch.manual_seed(0)
    base = nn.Linear(8, 8)
    x = torch.randn(4, 8)
    expected = base(x)
    config = HRAConfig(r=4, apply_GS=orthogonal, target_modules=["0"])
    model = get_peft_model(nn.Sequential(base), config)
    output = model(x)
    output.square().sum().backward()
    u = model.base_model.model[0].hra_u["default"]
    print(f"apply_GS={orthogonal}")
    print("  the first two vectors are equal:", torch.equal(u[:, 0], u[:, 1]))
    print("  output unchanged:", torch.allclose(output, expected, atol=1e-5))
    print("  largest gradient above 1000:", bool(u.grad.abs().max() > 1000))

# It prints:
# apply_GS=False
#   the first two vectors are equal: True
#   output unchanged: True
#   largest gradient above 1000: False
# apply_GS=True
#   the first two vectors are equal: True
#   output unchanged: False
#   largest gradient above 1000: True
