"""Small language models from transformers' configurations, and their stored weights.

No torch at import.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.language.plays import CHARACTERS, LENGTH
from peft_regress import PeftRegressError

if TYPE_CHECKING:
    from torch import Tensor, nn

SOURCES: Final = Path(__file__).parents[2] / "baselines" / "sources"
SHA256: Final = {
    "llama": "2f2ef2cd5d4aff3c1dcf725abce2ad24cdb12979975850e5c92bce2f77eec8ce",
    "mixtral": "5f05abf27b77fb46da671a2b6cc740ebcea9c2b88af5f3346c4da79b34f95d00",
    "t5": "8cd11929f8cbb8c017c84ed1062500134d142ada2709a99bc8049703220024d6",
    "bert": "499a82c4ec673cbf357d7d95bc2fbda134bcd38984bf27a6f6a0b9deebd66c34",
}
"""Of each source; tools/data/plays.py trains them."""
PROMPT: Final = 8
"""The tokens that a prompt puts before a sequence."""


_SIZES: Final[dict[str, Any]] = {
    "vocab_size": len(CHARACTERS),
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH + PROMPT,
}


def new_llama() -> nn.Module:
    """Return a decoder with grouped queries and tied embeddings, weights as drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM  # listing must not cost the import

    return LlamaForCausalLM(
        LlamaConfig(**_SIZES, num_key_value_heads=2, tie_word_embeddings=True, use_cache=False)
    )


def new_mixtral() -> nn.Module:
    """Return the same with two of four experts for each token."""
    from transformers import MixtralConfig, MixtralForCausalLM  # listing must not cost the import

    sizes = {**_SIZES, "intermediate_size": 96, "num_hidden_layers": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    shared = {"num_key_value_heads": 2, "tie_word_embeddings": True, "use_cache": False}
    return MixtralForCausalLM(MixtralConfig(**sizes, **experts, **shared))


def new_bert() -> nn.Module:
    """Return an encoder that tells two classes, weights as drawn."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**_SIZES, num_labels=2))


def new_t5() -> nn.Module:
    """Return an encoder and a decoder, weights as drawn."""
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(CHARACTERS),
            d_model=64,
            d_kv=16,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            use_cache=False,
        )
    )


def llama() -> nn.Module:
    """Return the decoder that was trained on plays in modern spelling."""
    return _with_source("llama", new_llama())


def mixtral() -> nn.Module:
    """Return the decoder with experts, trained on the same."""
    return _with_source("mixtral", new_mixtral())


def bert() -> nn.Module:
    """Return the encoder that was trained to tell modern spelling from the First Folio's."""
    return _with_source("bert", new_bert())


def t5() -> nn.Module:
    """Return encoder and decoder that were trained to continue plays in modern spelling."""
    return _with_source("t5", new_t5())


def _with_source(name: str, model: nn.Module) -> nn.Module:
    """Load the stored weights of a source. Raises `PeftRegressError` for any other bytes."""
    import safetensors.torch  # listing must not cost the import

    content = (SOURCES / f"{name}.safetensors").read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise PeftRegressError(
            f"source {name}: found sha256 {found}, expected {SHA256[name]}. Restore it with "
            "`git checkout -- baselines/sources`."
        )
    # A tied weight is stored once.
    state = {key: tensor.float() for key, tensor in safetensors.torch.load(content).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    lacking = set(missing) & dict(model.named_parameters()).keys()
    if unexpected or lacking:
        raise PeftRegressError(f"source {name}: {lacking} are missing, {unexpected} unknown")
    return model


def bits_saved(model: nn.Module, batches: Sequence[Any]) -> float:
    """Return minus the bits that a decoder needs for the next character, of all test batches."""

    def predicted(batch: Any) -> tuple[Tensor, Tensor]:
        ids = batch["input_ids"]
        # A prompt comes before the sequence.
        return model(**batch).logits[:, -ids.shape[1] : -1].double(), ids[:, 1:]

    return -_bits(map(predicted, batches))


def bits_of_labels_saved(model: nn.Module, batches: Sequence[Any]) -> float:
    """Return the same of labels that each have their logits."""
    return -_bits((model(**batch).logits.double(), batch["labels"]) for batch in batches)


def _bits(predictions: Iterable[tuple[Tensor, Tensor]]) -> float:
    from torch.nn import functional

    nats = count = 0.0
    for logits, labels in predictions:
        each = logits.flatten(0, -2)
        nats += functional.cross_entropy(each, labels.flatten(), reduction="sum").item()
        count += labels.numel()
    return nats / count / math.log(2)
