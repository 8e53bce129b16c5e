"""What some adapters need before training: a pass over data, or other adapters. Imports torch.

Each imports what is its own: older releases of peft lack some, and have the others.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from benchmarks.language import networks, plays

_BATCHES, _BATCH = 4, 8


def _batches() -> Iterator[Tensor]:
    rows = plays.folio()[0]["input_ids"]
    return (rows[start : start + _BATCH] for start in range(0, _BATCHES * _BATCH, _BATCH))


def _lora(targets: list[str], **settings: object) -> peft.LoraConfig:
    given = {"r": 4, "lora_alpha": 4, "target_modules": targets, "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**{**given, **settings})


def eva(model: nn.Module, *, targets: list[str]) -> nn.Module:
    """Return LoRA that starts from the principal components of each layer's inputs."""
    config = _lora(targets, init_lora_weights="eva", eva_config=peft.EvaConfig())
    adapted = peft.get_peft_model(model, config)
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in _batches()]
    peft.initialize_lora_eva_weights(adapted, given, show_progress_bar=False)
    return adapted


def corda(model: nn.Module, *, targets: list[str]) -> nn.Module:
    """Return LoRA that starts from the covariance of each layer's inputs."""
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    config = _lora(targets, init_lora_weights="corda", corda_config=CordaConfig())

    def run() -> None:
        with torch.no_grad():
            for ids in _batches():
                for row in ids:  # CorDA takes one sequence at a time
                    model(input_ids=row.unsqueeze(0))

    preprocess_corda(model, config, run_model=run)
    return peft.get_peft_model(model, config)


def lora_ga(model: nn.Module, *, targets: list[str]) -> nn.Module:
    """Return LoRA that starts from the gradient of each layer's weight."""
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    config = _lora(targets, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())

    def train() -> None:
        for ids in _batches():
            model(input_ids=ids, labels=ids).loss.backward()

    preprocess_loraga(model, config, train)
    return peft.get_peft_model(model, config)


def xlora(model: nn.Module, *, targets: list[str]) -> nn.Module:
    """Return a mixture of two LoRA adapters, drawn at random, whose weights are learned."""
    with tempfile.TemporaryDirectory() as folder:
        adapters = {}
        for name in ("0", "1"):
            config = _lora(targets, lora_alpha=0.4, init_lora_weights=False)
            drawn = peft.get_peft_model(networks.llama(), config)
            drawn.save_pretrained(Path(folder) / name)
            adapters[name] = str(Path(folder) / name)
        config = peft.XLoraConfig(
            task_type="CAUSAL_LM", hidden_size=model.config.hidden_size, xlora_depth=2,
            xlora_size=16, xlora_dropout_p=0.0, adapters=adapters,
        )  # fmt: skip
        return peft.get_peft_model(model, config)
