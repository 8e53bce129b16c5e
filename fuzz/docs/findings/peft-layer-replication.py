"""`layer_replication`: a second adapter replicates again, and merging mixes adapters.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`add_adapter` and `load_adapter` of a configuration with `layer_replication` put together the layers
that the first adapter has put together. So the first adapter computes another function, although it
stays the active one, and two layers share one set of its weights. The documentation says that each
layer gets its own. Deleting the second adapter does not mend it.

Replicated layers share the weight of their base. `merge_adapter` and `merge_and_unload` add the updates
of all of them to it, without a word; that they cannot be merged is known (huggingface/peft#1707).

Expected: 0.0 twice, or an error.

Cause: `BaseTuner.inject_adapter` (`tuners/tuners_utils.py`) calls `_prepare_model` for each adapter, and
`LoraModel._prepare_model` in `tuners/lora/model.py` replicates each time. It could do so for the first
adapter alone, and refuse another map:

```python
if peft_config.layer_replication and len(self.peft_config) == 1:
```

With this the second line prints 0.0. `_check_merge_allowed` could refuse replicated layers.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
lora = {"target_modules": ["q_proj"], "init_lora_weights": False, "lora_alpha": 800}
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=3))
config = LoraConfig(layer_replication=[[0, 2], [1, 3]], **lora)
model = get_peft_model(base, config).eval()
ids = torch.tensor([[1, 2, 3, 4]])


def change(what):
    found = model(input_ids=ids).logits
    print(f"{what} changes the output by {((found - wanted).norm() / wanted.norm()).item():.1f}")


with torch.no_grad():
    wanted = model(input_ids=ids).logits
    model.merge_adapter()
    change("merging")
    model.unmerge_adapter()
    model.add_adapter("second", config)
    change("adding an inactive adapter")
weights = {layer.self_attn.q_proj.lora_A["default"].weight for layer in base.model.layers}
print(f"{len(base.model.layers)} layers, {len(weights)} matrices A")

# It prints:
# merging changes the output by 0.1
# adding an inactive adapter changes the output by 0.2
# 4 layers, 3 matrices A
