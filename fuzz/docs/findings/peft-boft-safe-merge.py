"""BOFT merges NaN into a convolution although `safe_merge=True`.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`safe_merge=True` is there to refuse an adapter whose merged weights are not finite, before anything
is written. BOFT does so for `nn.Linear`, and not for `nn.Conv2d`: the base's weight becomes NaN
without a message.

Expected: A `ValueError` in all four lines, and the weight as it was.

Cause: In `Conv2d.merge` (`tuners/boft/layer.py`) the branch for `safe_merge` is the same as the other one.
Before `self.set_base_weight(...)` it lacks

```python
if not torch.isfinite(orig_weight).all():
    raise ValueError(
        f"NaNs detected in the merged weights. The adapter {active_adapter} seems to be broken"
    )
```

With it the last line becomes `BOFT Conv2d: ValueError: NaNs detected in the merged weights`.
"""
# peft==0.21.2

import torch
from peft import BOFTConfig, LoraConfig, get_peft_model
from torch import nn

for config in (
    LoraConfig(r=4, target_modules=["0"]),
    BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=["0"]),
):
    for layer in (nn.Linear(4, 8), nn.Conv2d(4, 8, 1)):
        model = get_peft_model(nn.Sequential(layer), config)
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
        print(config.peft_type.value, type(layer).__name__, end=": ")
        try:
            merged = model.merge_and_unload(safe_merge=True)
            print("merged, weight finite:", bool(merged[0].weight.isfinite().all()))
        except ValueError as error:
            print("ValueError:", str(error).partition(".")[0])

# It prints:
# LORA Linear: ValueError: NaNs detected in the merged weights
# LORA Conv2d: ValueError: NaNs detected in the merged weights
# BOFT Linear: ValueError: NaNs detected in the merged weights
# BOFT Conv2d: merged, weight finite: False
