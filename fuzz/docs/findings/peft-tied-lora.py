"""`ensure_weight_tying`: LoRA of tied embeddings merges twice, and comes apart on bfloat16.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True)` gives the output layer the
adapter of the embedding. But:

- Merging adds the update to the shared weight once for each of the two layers. There is a warning
  that this "can lead to complications".
- On a bfloat16 base the two layers train adapters of their own, without a word. So they do after
  `model.to(torch.float64)`, and by the same cause after a move to another device; this was not tried.
- The adapted model cannot be copied by `copy.deepcopy`.

Expected: 1.0, `True` twice, and a copy.

Cause: `LoraModel._create_and_replace` in `tuners/lora/model.py` passes transposed views:

```python
tied_adapter = {"lora_A": emb_B.t(), "lora_B": emb_A.t()}
```

`LoraLayer.update_layer` makes parameters from them, which share memory with the embedding's until one
is converted. The optimizer has both, and steps twice. A layer that computes with the embedding's own
parameters could not come apart, and `merge` could leave it out. The layer keeps the views in its
`kwargs`, so it cannot be copied; without `tied_adapter` there it can.
"""
# peft==0.21.2

import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
ids = torch.tensor([[1, 2, 3]])
for dtype in (torch.bfloat16, torch.float32):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=True))
    config = LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True)
    before = base.lm_head.weight.detach().clone()
    model = get_peft_model(base.to(dtype), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    layers = (base.model.embed_tokens, base.lm_head)
    updates = [layer.get_delta_weight("default").detach() for layer in layers]
    print(f"{dtype}: one adapter for both: {torch.equal(*updates)}")
    if dtype == torch.bfloat16:
        continue
    try:
        copy.deepcopy(model)
    except RuntimeError as error:
        print(f"deepcopy: RuntimeError: {str(error)[:45]}")
    merged = model.merge_and_unload().lm_head.weight.detach() - before
    print(f"merging adds the update {(merged.norm() / updates[0].norm()).item():.1f} times")

# It prints:
# torch.bfloat16: one adapter for both: False
# torch.float32: one adapter for both: True
# deepcopy: RuntimeError: Only Tensors created explicitly by the user (
# merging adds the update 2.0 times
