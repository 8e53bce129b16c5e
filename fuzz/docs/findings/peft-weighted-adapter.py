"""`add_weighted_adapter` gives another function with rsLoRA, `lora_bias`, DoRA and KaSA.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

One adapter combined with weight 1 should be that adapter. With `use_rslora` the combined update is
sqrt(r) times as large. With `lora_bias` its bias is zero, with DoRA and KaSA its magnitude and diagonal
are those of a fresh adapter. Nothing warns.

Expected: 0.0 in all lines, or an error.

Cause: `LoraModel.add_weighted_adapter` in `tuners/lora/model.py` combines the matrices A and B alone,
with each adapter's scaling, and sets `lora_alpha` to the rank, for a scaling of 1. But `replace` keeps
`use_rslora` of the first adapter:

```diff
     lora_alpha=new_rank,
+    use_rslora=False,
```

With this the line of `use_rslora` prints 0.0. huggingface/peft#3449 with such a fix was merged, and is
not in 0.21.2; huggingface/peft#3761 reports all four.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import KasaConfig
from torch import nn

for settings in (
    {},
    {"use_rslora": True},
    {"lora_bias": True},
    {"use_dora": True},
    {"kasa_config": KasaConfig()},
):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["0"], **settings)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config)
    x = torch.randn(2, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
        wanted = model(x)
        model.add_weighted_adapter(["default"], [1.0], "combined", combination_type="linear")
        model.set_adapter("combined")
        off = (model(x) - wanted).norm() / wanted.norm()
    print(f"{next(iter(settings), 'LoRA')}: the output is off by {off.item():.1f}")

# It prints:
# LoRA: the output is off by 0.0
# use_rslora: the output is off by 1.0
# lora_bias: the output is off by 0.3
# use_dora: the output is off by 0.5
# kasa_config: the output is off by 1.4
