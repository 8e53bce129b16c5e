"""AdaLoRA's `ranknum` trains unless the base is float32 on the CPU, and is not saved.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

AdaLoRA divides its update by the constant `ranknum`. If the base is not float32, `ranknum` becomes a
parameter that requires a gradient, whatever `autocast_adapter_dtype` is. An optimizer over all
parameters that require a gradient changes it. The saved adapter does not contain `ranknum`, so the
loaded adapter computes something other than the trained one.

Expected: `ranknum` requires no gradient and stays 6, as on float32.

Cause: `AdaLoraLayer.update_layer` sets `requires_grad = False` and then calls
`_move_adapter_to_device_of_base_layer`, which ends in `tuners/tuners_utils.py`, line 2210:

```python
adapter_layer[adapter_name] = item.to(target_device, dtype=target_dtype)
```

If `item` already has this type and device, `.to` returns the parameter itself. Otherwise it returns a
plain tensor, from which `nn.ParameterDict.__setitem__` makes a new parameter that requires a gradient.
By this line the same should happen with a float32 base on an accelerator; this was not tried.
`cast_adapter_dtype` assigns in the same way.

Passing `requires_grad` on in both places, `nn.Parameter(item.to(...), requires_grad=item.requires_grad)`,
makes the script print `False` in the first three lines and `True` in the last two. A buffer would fit
`ranknum` better than a parameter.
"""
# peft==0.21.2

import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch import nn

config = AdaLoraConfig(init_r=6, target_r=4, tinit=100, total_step=1000, target_modules=["0"])
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)).to(dtype), config)
    ranknum = model.base_model.model[0].ranknum["default"]
    print(dtype, "ranknum.requires_grad:", ranknum.requires_grad)

optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for _ in range(20):
    optimizer.zero_grad()
    model(torch.ones(4, 8, dtype=dtype)).float().square().mean().backward()
    optimizer.step()
print("ranknum after 20 steps is 6:", ranknum.item() == 6)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(nn.Sequential(nn.Linear(8, 8)).to(dtype), folder)
print("ranknum once loaded is 6:", loaded.base_model.model[0].ranknum["default"].item() == 6)

# It prints:
# torch.float32 ranknum.requires_grad: False
# torch.float64 ranknum.requires_grad: True
# torch.bfloat16 ranknum.requires_grad: True
# ranknum after 20 steps is 6: False
# ranknum once loaded is 6: True
