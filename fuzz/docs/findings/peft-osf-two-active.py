"""OSF: of two active adapters the first alone acts, and merging takes both.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`base_model.set_adapter(["default", "other"])` is taken without a word, but the output is that of
"default" alone. `merge_adapter()` then merges both, so it changes the output. Pull request #3352
names it as a reason to leave OSF out of peft's tests of several active adapters.

Expected: the updates of both, as with LoRA; or an error of `set_adapter`.

Cause: `OSFLayer.forward` in `tuners/osf/layer.py` asks for the first one:

```python
active_adapter = self.active_adapters[0] if self.active_adapters else None
```

`OSFLayer.merge` beside it goes over all of `self.active_adapters`. A loop there, which adds the
update of each to the output of the base layer, makes the script print `True` twice for OSF, too.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, OSFConfig, get_peft_model
from torch import nn

for config in (LoraConfig(target_modules=["0"]), OSFConfig(target_modules=["0"])):
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config).eval()
    model.add_adapter("other", config)
    x = torch.randn(2, 8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "default" in name or "other" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        alone = model(x)
        model.base_model.set_adapter(["default", "other"])
        both = model(x)
        second_acts = not torch.allclose(both, alone, atol=1e-5)
        model.merge_adapter()
        merged = torch.allclose(model(x), both, atol=1e-5)
    name = config.peft_type.value
    print(f"{name}: the second adapter acts: {second_acts}, merging changes nothing: {merged}")

# It prints:
# LORA: the second adapter acts: True, merging changes nothing: True
# OSF: the second adapter acts: False, merging changes nothing: False
