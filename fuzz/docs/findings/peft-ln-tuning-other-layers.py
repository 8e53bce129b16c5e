"""LN tuning raises `KeyError` if adapters are on different layers.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

A second adapter on other layers than the first one makes each call of the model raise `KeyError`,
whichever adapter is active, and merging an adapter by its name, too.

Expected: `no error` in all lines: a layer without the active adapter computes what the base does.

Cause: `forward` and `merge` in `tuners/ln_tuning/layer.py` look for the active adapter in every layer. With

```python
if active_adapter in self.ln_tuning_layers:
    result = self.ln_tuning_layers[active_adapter](x, *args, **kwargs)
else:
    result = self.base_layer(x, *args, **kwargs)
```

in `forward`, and `adapter_names = [name for name in adapter_names if name in self.ln_tuning_layers]` in
`merge`, the script prints `no error` in all lines.
"""
# peft==0.21.2

import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model
from torch import nn

x = torch.ones(1, 8)
for config in (LoraConfig, LNTuningConfig):
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model = get_peft_model(base, config(target_modules=["0"]))
    model.add_adapter("second", config(target_modules=["1"]))
    for what, call in (
        ("add_adapter", lambda: model(x)),
        ("set_adapter", lambda: (model.set_adapter("second"), model(x))),
        ("merge_adapter", lambda: model.merge_adapter(["default"])),
    ):
        try:
            call()
            print(f"{config.__name__}: after {what}: no error")
        except KeyError as error:
            print(f"{config.__name__}: after {what}: KeyError: {error}")

# It prints:
# LoraConfig: after add_adapter: no error
# LoraConfig: after set_adapter: no error
# LoraConfig: after merge_adapter: no error
# LNTuningConfig: after add_adapter: KeyError: 'default'
# LNTuningConfig: after set_adapter: KeyError: 'second'
# LNTuningConfig: after merge_adapter: KeyError: 'default'
