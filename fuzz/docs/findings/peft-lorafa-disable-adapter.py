"""LoRA-FA: after `disable_adapter()` the frozen A trains.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`create_lorafa_optimizer` freezes A: this is the idea of LoRA-FA. A block of `disable_adapter()`
serves to run a reference policy or to inspect the base. After it, A requires a gradient.

Expected: The same before and after. `LoraFAOptimizer` itself still updates only B, but the backward pass now
computes A's gradient and keeps the activations for it. LoRA-FA exists to save that memory. With
another optimizer A would change.

Cause: `BaseTunerLayer.enable_adapters(True)` (`tuners/tuners_utils.py`) calls
`set_adapter(self.active_adapters)`, which makes all parameters of an adapter require gradients. The
general problem is known and will be fixed in peft 1.0 at the earliest, because users may rely on
this behaviour (huggingface/peft#3447).

For LoRA-FA there is a fix that changes nothing else. peft 0.21 has `frozen_peft_weight_names`, made
for MiCA, which freezes B, and `set_adapter` respects it. In `create_lorafa_optimizer`:

```python
for module in model.modules():
    if isinstance(module, LoraLayer):
        for adapter in module.lora_A:
            _register_frozen_peft_weight(module, adapter, "lora_A")
```

With this change the script prints `['lora_B']` twice.
"""
# peft==0.21.2

from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from torch import nn

model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), LoraConfig(r=2, target_modules=["0"]))
create_lorafa_optimizer(model, r=2, lora_alpha=8, lr=0.01)


def trainable():
    return [name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad]


print("before:", trainable())
with model.disable_adapter():
    pass
print("after:", trainable())

# It prints:
# before: ['lora_B']
# after: ['lora_A', 'lora_B']
