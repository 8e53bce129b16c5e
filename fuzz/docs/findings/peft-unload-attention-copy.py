"""Unloading fails beside a copy of an attention.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

If `nn.MultiheadAttention` is in `modules_to_save`, it trains as a copy. `merge_and_unload()` and
`unload()` then raise `AttributeError`. LoRA has its own code there, and works.

Expected: `MultiheadAttention` four times.

Cause: `BaseTuner._replace_module` in `tuners/tuners_utils.py` gives each unloaded module the weight of the
module that it replaces, and an attention has none by that name. Asking for it first

```diff
-if not hasattr(new_module, "base_layer"):
+if not hasattr(new_module, "base_layer") and hasattr(new_module, "weight"):
     new_module.weight = child.weight
```

prints `MultiheadAttention` in all lines.
"""
# peft==0.21.2

from peft import BOFTConfig, IA3Config, LoraConfig, OFTConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)


copied = {"target_modules": ["lin"], "modules_to_save": ["attention"]}
for config in (
    LoraConfig(r=2, **copied),
    OFTConfig(oft_block_size=4, **copied),
    BOFTConfig(boft_block_size=4, **copied),
    IA3Config(feedforward_modules=[], **copied),
):
    try:
        base = get_peft_model(Net(), config).merge_and_unload()
        print(config.peft_type.value, type(base.attention).__name__)
    except AttributeError as error:
        print(config.peft_type.value, "AttributeError:", error)

# It prints:
# LORA MultiheadAttention
# OFT AttributeError: 'MultiheadAttention' object has no attribute 'weight'
# BOFT AttributeError: 'MultiheadAttention' object has no attribute 'weight'
# IA3 AttributeError: 'MultiheadAttention' object has no attribute 'weight'
