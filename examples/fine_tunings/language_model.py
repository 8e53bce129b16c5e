"""A two-layer causal language model with LoRA; its loss comes with the batch's labels."""

from peft import LoraConfig, TaskType
from torch.optim import AdamW
from transformers import GPT2Config, GPT2LMHeadModel

from fine_tunings.made_up import WORDS, sequences
from peft_regress import Budget, FineTune

CONFIG = GPT2Config(
    vocab_size=WORDS, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
)

CASE = FineTune(
    "counting/lora-r8/gpt2",
    model=lambda: GPT2LMHeadModel(CONFIG),
    data=sequences,
    adapter=LoraConfig(
        r=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type=TaskType.CAUSAL_LM
    ),
    also_train=["transformer.wte"],
    optimizer=lambda model: AdamW(model.parameters(), lr=0.01, foreach=False),
    seeds=2,
    budget=Budget(ship="100 kB"),
)
