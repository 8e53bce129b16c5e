"""HiRA ignores `rank_pattern` for a layer's first adapter.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`HiraConfig(rank_pattern=...)` gives layers other ranks. The first adapter of a layer gets the
general rank all the same, a second adapter gets its own. The file of the first then fits no second
adapter, although both have the same configuration.

Expected: The ranks of LoRA: 2 for both adapters. Loading an adapter beside itself works.

Cause: `HiraModel._create_and_replace` finds the rank and passes it on as `r`, but `dispatch_default` in
`tuners/hira/layer.py` starts with `r = hira_config.r`. With

```python
r = kwargs.get("r", hira_config.r)
```

there, the lines of HiRA are those of LoRA. Files saved before hold the general rank, and need it when
they are loaded.
"""
# peft==0.21.2

import tempfile

from peft import HiraConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn


def net():
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


for config in (LoraConfig, HiraConfig):
    settings = config(r=4, rank_pattern={"1": 2}, target_modules=["0", "1"])
    model = get_peft_model(net(), settings)
    model.add_adapter("second", settings)
    print(f"{config.__name__}, ranks of layer 1:", model.base_model.model[1].r)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(net(), folder)
        try:
            loaded.load_adapter(folder, "again")
            print("loaded beside itself")
        except RuntimeError as error:
            print("RuntimeError:", str(error).splitlines()[-1].strip())

# It prints:
# LoraConfig, ranks of layer 1: {'default': 2, 'second': 2}
# loaded beside itself
# HiraConfig, ranks of layer 1: {'default': 4, 'second': 2}
# RuntimeError: size mismatch for base_model.model.1.hira_B.again: copying a param with shape torch.Size([8, 4]) from checkpoint, the shape in current model is torch.Size([8, 2]).
