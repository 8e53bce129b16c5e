"""C3A feeds the output of one adapter to the next.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

With two active adapters, the second one computes with what the first one returned instead of with
the input of the layer. Merging adds both updates to the weight. So merging changes what the model
computes. On layers that are not square the call raises. C3A came with peft 0.16.

Expected: `True` in both lines: active adapters add up, as the documentation of several adapters says.

Cause: The loop of `C3ALinear.forward` in `tuners/c3a/layer.py` puts the update into `x`:

```diff
-x = BlockCircularConvolution.apply(x, c3a_kernel) / x.size(-1)
-result += x.to(result.dtype)
+update = BlockCircularConvolution.apply(x, c3a_kernel) / x.size(-1)
+result += update.to(result.dtype)
```

With this, the script prints `True` twice.
"""
# peft==0.21.2

import torch
from peft import C3AConfig, get_peft_model
from torch import nn

for inputs, outputs in ((8, 8), (8, 4)):
    torch.manual_seed(0)
    config = C3AConfig(block_size=4, target_modules=["0"], init_weights="gaussian")
    model = get_peft_model(nn.Sequential(nn.Linear(inputs, outputs)), config).eval()
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    x = torch.randn(2, inputs)
    try:
        with torch.no_grad():
            before = model(x)
            model.merge_adapter()
            same = torch.allclose(model(x), before, rtol=1e-3, atol=1e-3)
        print(f"{inputs} inputs, {outputs} outputs: merging changes nothing: {same}")
    except RuntimeError as error:
        print(f"{inputs} inputs, {outputs} outputs: RuntimeError: {error}")

# It prints:
# 8 inputs, 8 outputs: merging changes nothing: False
# 8 inputs, 4 outputs: RuntimeError: shape '[2, 2, 4]' is invalid for input of size 8
