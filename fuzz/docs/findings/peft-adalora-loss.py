"""AdaLoRA: the loss has a penalty without the adapter, and raises once it is loaded.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

AdaLoRA adds a penalty to the loss that a model returns. It does so with the adapter off, too: the
logits are those of the base, but the loss is not. An adapter that was loaded for use raises as soon as
labels are given, so its loss cannot be evaluated.

Expected: `True` twice. The adapter is untrained.

Cause: `AdaLoraModel.forward` in `tuners/adalora/model.py` asks whether there is a loss, not whether the
model trains:

```diff
-if (getattr(outputs, "loss", None) is not None) and isinstance(outputs.loss, torch.Tensor):
+if self.training and isinstance(getattr(outputs, "loss", None), torch.Tensor):
```

`trainable_adapter_name` is set only if the adapter trains. With this change the script prints `True`
twice. A model in training mode can be off as well, which needs another look.
"""
# peft==0.21.2

import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1)).eval()


ids = torch.tensor([[1, 2, 3]])
wanted = base()(input_ids=ids, labels=ids).loss
config = AdaLoraConfig(target_modules=["q_proj"], total_step=10, task_type="CAUSAL_LM")
model = get_peft_model(base(), config).eval()
with model.disable_adapter():
    found = model(input_ids=ids, labels=ids).loss
print("off, the loss is the base's:", torch.allclose(found, wanted))
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(), folder)
try:
    found = loaded(input_ids=ids, labels=ids).loss
    print("loaded, the loss is the base's:", torch.allclose(found, wanted))
except AttributeError as error:
    print(f"loaded: AttributeError: {error}")

# It prints:
# off, the loss is the base's: False
# loaded: AttributeError: 'LlamaForCausalLM' object has no attribute 'trainable_adapter_name'
