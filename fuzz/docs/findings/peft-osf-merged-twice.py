"""OSF: `merge_and_unload` after `merge_adapter` merges once more.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

An adapter that is merged already is merged again by `merge_and_unload()`, without a word. The model
that it returns computes another function. So does a second `merge_adapter()`. This is so since peft
0.21.0; with 0.20.0 the script prints `True` four times.

Expected: `True` twice in both lines. Other methods skip adapters that are merged already, and warn.

Cause: `OSFLayer.merge` in `tuners/osf/layer.py` takes all active adapters:

```python
if adapter_names is None:
    adapter_names = self.active_adapters
```

The other methods call a helper there, which leaves out what is merged:

```python
adapter_names = check_adapters_to_merge(self, adapter_names)
```

With it, the script prints `True` four times. OSF cannot unmerge, so what was merged twice is lost.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, OSFConfig, get_peft_model
from torch import nn

for config in (LoraConfig(target_modules=["0"]), OSFConfig(target_modules=["0"])):
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config).eval()
    x = torch.randn(2, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        before = model(x)
        model.merge_adapter()
        merged = torch.allclose(model(x), before, atol=1e-5)
        unloaded = torch.allclose(model.merge_and_unload()(x), before, atol=1e-5)
    name = config.peft_type.value
    print(f"{name}: merge_adapter changes nothing: {merged}, merge_and_unload after it: {unloaded}")

# It prints:
# LORA: merge_adapter changes nothing: True, merge_and_unload after it: True
# OSF: merge_adapter changes nothing: True, merge_and_unload after it: False
