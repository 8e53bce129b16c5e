"""DEFT on a transformers `Conv1D`: a second adapter breaks the first one.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`transformers.pytorch_utils.Conv1D`, of which GPT-2 is made, stores its weight transposed. DEFT sets
`fan_in_fan_out` for the first adapter of such a layer. A second adapter, added with its default
settings, unsets it for the whole layer. Then merging the first adapter computes another function, and
if the layer is not square, adding the second one raises.

Expected: `True` in all lines, and no error: LoRA keeps what the first adapter has set.

Cause: `DeftLayer.update_layer` in `tuners/deft/layer.py` takes the setting of each new adapter for the layer:

```python
self.fan_in_fan_out = config.fan_in_fan_out
```

`DeftModel` corrects the configuration of the first adapter only, in `_create_new_module`. It is the
layer that is transposed, so

```python
self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
```

is right for each adapter. With it, the script prints `True` four times and no error. TinyLoRA and FRoD
raise in the same way if a second adapter is put on a `Conv1D` that is not square.
"""
# peft==0.21.2

import torch
from peft import DeftConfig, LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

for config in (LoraConfig, DeftConfig):
    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": ["0"]}
    model = get_peft_model(nn.Sequential(Conv1D(8, 8)), config(**settings)).eval()
    x = torch.randn(2, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
        before = model(x)
        for second in (False, True):
            if second:
                model.add_adapter("second", config(**settings))
            model.merge_adapter(["default"])
            same = torch.allclose(model(x), before, rtol=1e-3, atol=1e-3)
            model.unmerge_adapter()
            added = "after add_adapter" if second else "alone"
            print(f"{config.__name__}, {added}: merging changes nothing: {same}")

try:
    model = get_peft_model(nn.Sequential(Conv1D(4, 8)), DeftConfig(r=2, target_modules=["0"]))
    model.add_adapter("second", DeftConfig(r=2, target_modules=["0"]))
except RuntimeError as error:
    print("DeftConfig, 8 inputs and 4 outputs: RuntimeError:", error)

# It prints:
# LoraConfig, alone: merging changes nothing: True
# LoraConfig, after add_adapter: merging changes nothing: True
# DeftConfig, alone: merging changes nothing: True
# DeftConfig, after add_adapter: merging changes nothing: False
# DeftConfig, 8 inputs and 4 outputs: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x4 and 8x4)
