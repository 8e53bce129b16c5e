"""Cases of one's own on tiny models of transformers: adapters and prompts on text."""

from functools import partial

import peft
import pytest
import torch
from own_training import false_facts, fine_tune, measured
from peft.optimizers import create_lorafa_optimizer

transformers = pytest.importorskip("transformers")


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def text(labels):
    tokens = torch.randint(0, 32, (12, 6), generator=torch.Generator().manual_seed(0))
    whole = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens if labels is None else labels,
    }
    return tuple({k: v[part] for k, v in whole.items()} for part in (slice(8), slice(8, 12)))


LM = {"model": gpt2, "data": lambda: text(None)}
CLASSES = {"model": bert, "data": lambda: text(torch.arange(12) % 3)}


def of_lm(config, **settings):
    return LM, getattr(peft, config)(**settings)


def of_classes(config, **settings):
    return CLASSES, getattr(peft, config)(target_modules=["query"], **settings)


ATTENTION = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
OF_PEFT = {
    "LoRA on Conv1D": of_lm("LoraConfig", r=2, **ATTENTION),
    "DoRA on Conv1D": of_lm("LoraConfig", r=2, use_dora=True, **ATTENTION),
    "one layer": of_lm("LoraConfig", r=2, layers_to_transform=[0], **ATTENTION),
    "some tokens": of_lm("LoraConfig", r=2, trainable_token_indices=[1, 2], **ATTENTION),
    "LayerNorm": of_lm("LNTuningConfig", target_modules=["ln_1", "ln_2"]),
    "a prompt": of_lm("PromptTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=3),
    "a prefix": of_lm("PrefixTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=3),
    "a classifier": of_classes("LoraConfig", r=2, task_type="SEQ_CLS"),
    "a saved module": of_classes("LoraConfig", r=2, modules_to_save=["classifier"]),
    "an embedding": (CLASSES, peft.LoraConfig(r=2, target_modules=["word_embeddings"])),
    "LoRA-FA": (
        {**CLASSES, "optimizer": partial(create_lorafa_optimizer, r=2, lora_alpha=8, lr=1e-3)},
        peft.LoraConfig(r=2, target_modules=["query"]),
    ),
    "AdaLoRA": of_lm("AdaLoraConfig", task_type="CAUSAL_LM", total_step=4, **ATTENTION),
    "ShadowPEFT": of_lm("ShadowConfig", task_type="CAUSAL_LM", shadow_dropout=0.0),
    "repeated layers": of_classes("LoraConfig", r=2, layer_replication=[(0, 1), (0, 1)]),
    "OSF": ({}, peft.OSFConfig(target_modules=["6"], effective_rank=4)),
    "tied tokens": of_lm("TrainableTokensConfig", token_indices=[1], target_modules=["wte"]),
    "a tied embedding": of_lm("LoraConfig", r=2, target_modules=["wte"]),
    "a prompt for classes": (
        CLASSES,
        peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    ),
}
WRONG = {
    # add_weighted_adapter leaves the magnitude out.
    "DoRA on Conv1D": {"paths_agree": "as a weighted adapter"},
    "AdaLoRA": {"disabled_equals_base": "the outputs differ", "saved_adapter_reloads": "no attrib"},
    "ShadowPEFT": {"trainable_changed": "h.0.shadow_update", "reload_keeps_trainable": "these"},
    "repeated layers": {
        "state_kept": "loading another", "adapters_do_not_leak": "adding and filling",
        "delete_leaves_nothing": "not the tensors of before",
    },
    "OSF": {"adapters_do_not_leak": "with two active ones, the output is that of default alone"},
    "tied tokens": dict.fromkeys(
        ("adapters_do_not_leak", "delete_leaves_nothing"), "wraps an unknown layer"
    ),
    # The output layer shares the weight.
    "a tied embedding": {"merge_equals_unmerged": "first in layer lm_head"},
    # disable_adapter() raises where the model cannot generate.
    "a prompt for classes": dict.fromkeys(
        ("disabled_equals_base", "toggling_keeps_trainable"), "UnboundLocalError"
    ),
}  # fmt: skip
"""What peft 0.21 gets wrong, and a part of each note."""

ALIKE = {"one layer", "a saved module"}
"""LoRA, as others above, and a copied module, as in test_own_contract.py."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in ALIKE else ()) for name in OF_PEFT],
)
def test_invariants_hold_or_say_why_they_do_not_apply(name):
    model, adapter = OF_PEFT[name]
    record = measured(fine_tune(adapter, **model))
    assert record.status == "ok", record.error
    found, wrong = false_facts(record), WRONG.get(name, {})
    assert found.keys() == wrong.keys()
    assert all(wrong[fact] in note for fact, note in found.items())
    silent = {fact for fact, holds in record.invariants.items() if holds is None}
    assert silent <= record.invariant_notes.keys()
    if name == "a prompt":
        assert "does not load a prompt" in record.invariant_notes["reload_keeps_trainable"]
