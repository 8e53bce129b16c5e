"""`LoraFAOptimizer` fails on LoRA of convolutions.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Expected: A step, as with linear layers, or a clear error in `create_lorafa_optimizer`.

Cause: `LoraFAOptimizer.step` in `optimizers/lorafa.py` computes `A @ A.T` and `grad_B @ AA_T_inv`. A of a
convolution has four dimensions, (r, in, height, width), and B (out, r, 1, 1). As matrices, both are
what the algorithm needs:

```diff
-A = param_list[0]
+A = param_list[0].flatten(start_dim=1)
-grad_B_orin = B.grad
+grad_B_orin = B.grad.flatten(start_dim=1)
 ...
+grad_B = grad_B.view_as(B)
```

With this change all three lines print `works`.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from torch import nn

for layer, image in (
    (nn.Linear(4, 8), torch.ones(1, 4)),
    (nn.Conv2d(4, 8, 1), torch.ones(1, 4, 5, 5)),
    (nn.Conv2d(4, 8, 3), torch.ones(1, 4, 5, 5)),
):
    model = get_peft_model(nn.Sequential(layer), LoraConfig(r=2, target_modules=["0"]))
    optimizer = create_lorafa_optimizer(model, r=2, lora_alpha=8, lr=0.01)
    model(image).sum().backward()
    try:
        optimizer.step()
        print(layer, "works")
    except RuntimeError as error:
        print(layer, "RuntimeError:", error)

# It prints:
# Linear(in_features=4, out_features=8, bias=True) works
# Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1)) RuntimeError: Expected size for first two dimensions of batch2 tensor to be: [8, 1] but got: [8, 4].
# Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1)) RuntimeError: The size of tensor a (4) must match the size of tensor b (3) at non-singleton dimension 1
