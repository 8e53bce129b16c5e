"""Prompts, adaption prompts and ShadowPEFT require gradients when they are loaded for use.

Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11, on CPU.

`PeftModel.from_pretrained` loads with `is_trainable=False` by default: "If `False`, the adapter will be
frozen and can only be used for inference." These types train. An optimizer over all parameters that
require a gradient changes them, and every forward pass keeps a graph. This is about a float32 base; of
a bfloat16 one more types train, by another cause.

Expected: 0 in all lines.

Cause: there are three.

- `AdaptionPromptModel.add_adapter` calls `_freeze_adapter`, which looks for the adapter's name among
  the names of parameters, where it is not.
- `ShadowModel._mark_only_adapters_as_trainable` calls `_sync_shadow_module_trainability` without
  the `inference_mode` that it takes.
- `PeftModel.add_adapter` makes a prompt's encoder, and asks nothing of `inference_mode`.
"""
# peft==0.21.2

import tempfile

from peft import (
    AdaptionPromptConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    ShadowConfig,
    get_peft_model,
)
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
settings = LlamaConfig(**sizes, num_hidden_layers=1)
for config in (
    LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
    PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    PromptEncoderConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM"),
    ShadowConfig(task_type="CAUSAL_LM"),
):
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(LlamaForCausalLM(settings), config).save_pretrained(folder)
        loaded = PeftModel.from_pretrained(LlamaForCausalLM(settings), folder)
    count = sum(parameter.requires_grad for parameter in loaded.parameters())
    print(f"{config.peft_type.value}: {count} parameters require a gradient")

# It prints:
# LORA: 0 parameters require a gradient
# PROMPT_TUNING: 1 parameters require a gradient
# PREFIX_TUNING: 1 parameters require a gradient
# P_TUNING: 1 parameters require a gradient
# ADAPTION_PROMPT: 2 parameters require a gradient
# SHADOW: 10 parameters require a gradient
