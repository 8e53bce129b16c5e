"""OLoRA on a transformers `Conv1D` changes the function or fails.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`init_lora_weights="olora"` starts from a QR decomposition of the weight, which leaves the function
as it is. On `transformers.pytorch_utils.Conv1D`, the layer of GPT-2, the output changes without a
word if the weight is square, and the first call fails if it is not.

Expected: `output unchanged: True` three times.

Cause: `LoraLayer.olora_init` (`tuners/lora/layer.py`) decomposes the weight as it is stored. `Conv1D`
stores its transpose. `pissa_init` transposes it, and `olora_init` can do the same:

```python
weight_tensor = transpose(weight_tensor.to(torch.float32), self.fan_in_fan_out)
...
weight_tensor = transpose(weight_tensor.to(dtype), self.fan_in_fan_out)
base_layer.weight.data = weight_tensor
```

With this change the script prints the expected lines.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

config = LoraConfig(r=2, init_lora_weights="olora", target_modules=["0"])
for name, inputs, layer in (
    ("Linear(4, 8)", 4, nn.Linear(4, 8)),
    ("Conv1D of 4 to 4", 4, Conv1D(4, 4)),
    ("Conv1D of 4 to 8", 4, Conv1D(8, 4)),
):
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    x = torch.randn(1, inputs)
    expected = layer(x)
    model = get_peft_model(nn.Sequential(layer), config)
    try:
        print(f"{name}, output unchanged:", torch.allclose(model(x), expected, atol=1e-5))
    except RuntimeError as error:
        print(f"{name}, RuntimeError: {error}")

# It prints:
# Linear(4, 8), output unchanged: True
# Conv1D of 4 to 4, output unchanged: False
# Conv1D of 4 to 8, RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x4 and 8x2)
