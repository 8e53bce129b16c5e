"""DeLoRA in float16 returns no numbers.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

A DeLoRA adapter that is in float16 itself, with `autocast_adapter_dtype=False`, makes each output of
the layer NaN, before any training. The result is finite if the adapter is float32, which is the default,
or bfloat16. DeLoRA came with peft 0.18.

Expected: `True` in all lines, and the base's output, because the adapter starts without an effect.

Cause: `forward` in `tuners/delora/layer.py` divides by the norms of the columns of B, which starts at zero:

```python
An = torch.clamp(self.delora_A[adapter].norm(dim=1), min=1e-4)
Bn = torch.clamp(self.delora_B[adapter].norm(dim=0), min=1e-4)
scaling = (self.delora_lambda[adapter] / self.r[adapter]) / (An * Bn)
```

The quotient is above 65504, the largest number of float16: infinity, which zero makes NaN. With
`.float()` at both norms, and `self.delora_B[adapter].float()` in the product that follows, the script
prints `True` in all lines.
"""
# peft==0.21.2

import torch
from peft import DeloraConfig, get_peft_model
from torch import nn

for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for autocast in (True, False):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(8, 8)).to(dtype)
        x = torch.randn(2, 8).to(dtype)
        expected = base(x)
        config = DeloraConfig(r=2, target_modules=["0"])
        model = get_peft_model(base, config, autocast_adapter_dtype=autocast)
        finite = bool(model(x).isfinite().all())
        print(f"{dtype}, autocast_adapter_dtype={autocast}: the output is finite: {finite}")

# It prints:
# torch.float32, autocast_adapter_dtype=True: the output is finite: True
# torch.float32, autocast_adapter_dtype=False: the output is finite: True
# torch.bfloat16, autocast_adapter_dtype=True: the output is finite: True
# torch.bfloat16, autocast_adapter_dtype=False: the output is finite: True
# torch.float16, autocast_adapter_dtype=True: the output is finite: True
# torch.float16, autocast_adapter_dtype=False: the output is finite: False
