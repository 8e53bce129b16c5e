"""The weights of an attention train after `merge_and_unload`.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Base weights that LoRA merges into stay frozen, as they were. Only the two weights of
`nn.MultiheadAttention` train afterwards, also in the model that `merge_and_unload` returns. After
`merge_adapter` they are not even parameters, but tensors that autograd follows to the adapter.

Expected: `trains: False` everywhere, and parameters, as for the linear layer.

Cause: `MultiheadAttention.merge` (`tuners/lora/layer.py`) adds an update that needs gradients to the
weight and assigns the sum, since its forward pass merges in order to compute. `_restore_weights`
makes a parameter of it again with `requires_grad=weight.requires_grad`, which is true by then. With

```python
base_layer.register_parameter("in_proj_weight", nn.Parameter(weight.data, requires_grad=False))
```

there, and the same for the weight of `out_proj`, nothing of the unloaded model trains. A merge that
a user asks for could detach the update, which mends the other lines.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.att = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        return self.lin(self.att(x, x, x, need_weights=False)[0])


config = LoraConfig(target_modules=["att", "lin"], init_lora_weights=False)
merged = get_peft_model(Net(), config).merge_and_unload()
for name, parameter in merged.named_parameters():
    print("merge_and_unload", name, "trains:", parameter.requires_grad)

model = get_peft_model(Net(), config)
model.merge_adapter()
weights = [layer.base_layer for layer in (model.base_model.model.att, model.base_model.model.lin)]
print("merge_adapter, attention:", type(weights[0].in_proj_weight).__name__)
print("merge_adapter, attention trains:", weights[0].in_proj_weight.requires_grad)
print("merge_adapter, linear:", type(weights[1].weight).__name__)
print("merge_adapter, linear trains:", weights[1].weight.requires_grad)

# It prints:
# merge_and_unload att.in_proj_bias trains: False
# merge_and_unload att.in_proj_weight trains: True
# merge_and_unload att.out_proj.bias trains: False
# merge_and_unload att.out_proj.weight trains: True
# merge_and_unload lin.weight trains: False
# merge_and_unload lin.bias trains: False
# merge_adapter, attention: Tensor
# merge_adapter, attention trains: True
# merge_adapter, linear: Parameter
# merge_adapter, linear trains: False
