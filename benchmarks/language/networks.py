"""Small language models from transformers' configurations, and their stored weights.

No torch at import.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.language.plays import CHARACTERS, LENGTH
from peft_regress import PeftRegressError

if TYPE_CHECKING:
    from torch import nn

SOURCES: Final = Path(__file__).parents[2] / "baselines" / "sources"
SHA256: Final = {"llama": "2f2ef2cd5d4aff3c1dcf725abce2ad24cdb12979975850e5c92bce2f77eec8ce"}
"""Of each source; tools/data/plays.py trains them."""
PROMPT: Final = 8
"""The tokens that a prompt puts before a sequence."""


def new_llama() -> nn.Module:
    """Return a decoder with grouped queries and tied embeddings, weights as drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM  # listing must not cost the import

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(CHARACTERS),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH + PROMPT,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def llama() -> nn.Module:
    """Return the decoder that was trained on plays in modern spelling."""
    return _with_source("llama", new_llama())


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
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    if unexpected or not set(missing) <= tied:
        raise PeftRegressError(f"source {name}: {missing} are missing, {unexpected} unknown")
    return model


def bits_saved(model: nn.Module, batches: Sequence[Any]) -> float:
    """Return minus the bits that a decoder needs for the next character, of all test batches."""
    from torch.nn import functional

    nats = count = 0.0
    for batch in batches:
        ids = batch["input_ids"]
        # A prompt comes before the sequence.
        logits = model(**batch).logits[:, -ids.shape[1] : -1].double()
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        nats, count = nats + loss.item(), count + ids[:, 1:].numel()
    return -nats / count / math.log(2)
