"""A second trainable-tokens adapter breaks a model with tied embeddings.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`TrainableTokensConfig` works on a model whose output layer shares the weight of the embedding, such
as GPT-2. After `add_adapter` of a second one the model no longer computes, whichever adapter is
active, and deleting the second one does not mend it.

Expected: Logits of shape (1, 3, 32) four times, and the output layer wrapped once.

Cause: `TrainableTokensModel.inject_adapter` (`tuners/trainable_tokens/model.py`) looks for the modules
whose weights are tied to the embedding. The first adapter has wrapped the output layer, so that the
module of that name is now `lm_head.base_layer`: its parent is the wrapper. The second adapter puts
another wrapper between the two. `_create_and_replace` can leave the wrapper alone, which shares all
parameters with the embedding's:

```python
if isinstance(parent, TrainableTokensLayer):
    parent.update_layer(adapter_name, config=peft_config, tied_adapter=tied_adapter)
elif isinstance(target, TrainableTokensLayer):
    ...
```

With this change the script prints the expected lines. LoRA with `trainable_token_indices` takes
another way, and is right.
"""
# peft==0.21.2

import torch
from peft import TrainableTokensConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

base = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2))
config = TrainableTokensConfig(token_indices=[1], target_modules=["wte"])
model = get_peft_model(base, config)
tokens = torch.tensor([[0, 1, 2]])


def compute(when):
    try:
        print(f"{when}: {tuple(model(input_ids=tokens).logits.shape)}")
    except ValueError as error:
        print(f"{when}: ValueError: {error}")


compute("one adapter")
model.add_adapter("second", config)
compute("two, the first active")
model.set_adapter("second")
compute("two, the second active")
model.set_adapter("default")
model.delete_adapter("second")
compute("the second deleted")
layer = model.base_model.model.lm_head
print("lm_head:", type(layer).__name__, "around", type(layer.base_layer).__name__)

# It prints:
# one adapter: (1, 3, 32)
# two, the first active: ValueError: TrainableTokensLayer wraps an unknown layer type, maybe you are targeting the wrong layer?
# two, the second active: ValueError: TrainableTokensLayer wraps an unknown layer type, maybe you are targeting the wrong layer?
# the second deleted: ValueError: TrainableTokensLayer wraps an unknown layer type, maybe you are targeting the wrong layer?
# lm_head: TrainableTokensLayer around TrainableTokensLayer
