"""A small language model with random weights, its tokenizer and texts: nothing is downloaded."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{at}" for at in range(509))]
TEXTS = [" ".join(f"w{(7 * i + 3 * j) % 509}" for j in range(8 + i % 17)) for i in range(64)]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
TRAINING = {"output_dir": "out", "max_steps": 20, "report_to": "none", "use_cpu": True}


def tokenizer():
    """Return a tokenizer that splits at spaces."""
    raw = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def llama():
    """Return a Llama of two layers."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(WORDS), num_attention_heads=4, **SIZES, **special)
    )
