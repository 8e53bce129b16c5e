"""A small language model with random weights, its tokenizer and texts: nothing is downloaded."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{at}" for at in range(509))]
TEXTS = [" ".join(f"w{(7 * i + 3 * j) % 509}" for j in range(8 + i % 17)) for i in range(64)]


def tokenizer():
    """Return a tokenizer that splits at spaces."""
    raw = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def llama(**options):
    """Return a Llama of two layers."""
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        **options,
    )
    return LlamaForCausalLM(config)
