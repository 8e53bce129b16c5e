"""GaLore, a built-in method: full training with projected gradients, of a language model."""

from transformers import LlamaConfig, LlamaForCausalLM

from fine_tunings.made_up import WORDS, sequences
from peft_regress import FineTune

SIZES = {"vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128}
CONFIG = LlamaConfig(
    **SIZES, num_hidden_layers=2, num_attention_heads=4, bos_token_id=0, eos_token_id=0
)

CASE = FineTune(
    "counting/galore-r4/llama",
    model=lambda: LlamaForCausalLM(CONFIG),
    data=sequences,
    adapter="galore-r4",
    also_train=["lm_head"],
    seeds=2,
)
