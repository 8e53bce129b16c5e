"""LN tuning: `merge_and_unload` leaves the wrappers of `modules_to_save`.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

A classifier head is trained beside the norms by `modules_to_save=["head"]`. After `merge_and_unload()` or
`unload()` it is still a `ModulesToSaveWrapper`, and the keys of the model's state have its parts. A model
that is saved so loads with a new head elsewhere, since no key fits. It happens since peft 0.11.

Expected: `Linear`, and the keys of a linear layer, as for IA3.

Cause: `LNTuningModel` in `tuners/ln_tuning/model.py` has a `_unload_and_optionally_merge` of its own, which
replaces modules that have a `base_layer`. That of `BaseTuner` asks for this first:

```python
if hasattr(target, "unload_and_optionally_merge_module"):
    unloaded = target.unload_and_optionally_merge_module(
        merge=merge, safe_merge=safe_merge, adapter_names=adapter_names
    )
    self._replace_module(parent, target_name, unloaded, target)
elif hasattr(target, "base_layer"):
```

With it in `LNTuningModel`, the script prints `Linear` and its keys.
"""
# peft==0.21.2

from peft import IA3Config, LNTuningConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.lin = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.lin(self.norm(x)))


for config in (
    IA3Config(target_modules=["lin"], feedforward_modules=[], modules_to_save=["head"]),
    LNTuningConfig(target_modules=["norm"], modules_to_save=["head"]),
):
    base = get_peft_model(Net(), config).merge_and_unload()
    print(config.peft_type.value, type(base.head).__name__)
    print("  ", ", ".join(key for key in base.state_dict() if key.startswith("head")))

# It prints:
# IA3 Linear
#    head.weight, head.bias
# LN_TUNING ModulesToSaveWrapper
#    head.original_module.weight, head.original_module.bias, head.modules_to_save.default.weight, head.modules_to_save.default.bias
