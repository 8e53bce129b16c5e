"""DEFT: adapters that are merged one after the other give another function.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

DEFT removes a part of the base weight, so that its update depends on the base. Two adapters that are
merged by one call use the original weight. If a second call merges the second one, its update is
that of the weight which the first one has changed. DEFT came with peft 0.20.

Expected: `True` in all places. It makes no difference for LoRA how many calls merge.

Cause: `merge` in `tuners/deft/layer.py` computes the factors of its own call before it changes the weight, but
knows nothing of earlier calls. `_merge_factor` can take out what is merged, by the factors that are
kept for unmerging:

```python
weight = transpose(self.get_base_layer().weight.to(torch.float32), self.fan_in_fan_out)
for merged in self.merged_adapters:
    delta = self._delta_from_factor(merged, self._cached_merge_factor[merged]).to(torch.float32)
    weight = weight - transpose(delta, self.fan_in_fan_out)
```

With this, the script prints `True` four times.
"""
# peft==0.21.2

import torch
from peft import DeftConfig, LoraConfig, get_peft_model
from torch import nn

for config in (LoraConfig, DeftConfig):
    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": ["0"]}
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config(**settings)).eval()
    model.add_adapter("second", config(**settings))
    x = torch.randn(2, 8)
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
        before = model(x)
        model.merge_adapter(["default", "second"])
        together = torch.allclose(model(x), before, rtol=1e-3, atol=1e-3)
        model.unmerge_adapter()
        model.merge_adapter(["default"])
        model.merge_adapter(["second"])
        one_by_one = torch.allclose(model(x), before, rtol=1e-3, atol=1e-3)
    print(f"{config.__name__}: merged together: {together}, one after the other: {one_by_one}")

# It prints:
# LoraConfig: merged together: True, one after the other: True
# DeftConfig: merged together: True, one after the other: False
