"""Cases of one's own on tiny models of transformers: adapters and prompts on text."""

import peft
import pytest
import torch
from own_training import false_facts, fine_tune, measured

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
SOUND = {
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
    "AdaLoRA": of_lm("AdaLoraConfig", task_type="CAUSAL_LM", total_step=4, **ATTENTION),
    "ShadowPEFT": of_lm("ShadowConfig", task_type="CAUSAL_LM", shadow_dropout=0.0),
    "repeated layers": of_classes("LoraConfig", r=2, layer_replication=[(0, 1), (0, 1)]),
}
WRONG = {
    "DoRA on Conv1D": {"paths_agree"},  # add_weighted_adapter leaves the magnitude out
    "AdaLoRA": {"disabled_equals_base", "saved_adapter_reloads"},  # its penalty stays on
    "ShadowPEFT": {"trainable_changed", "reload_keeps_trainable"},
    "repeated layers": {"state_kept", "adapters_do_not_leak", "delete_leaves_nothing"},
}
"""What peft 0.21 gets wrong."""


ALIKE = {"one layer", "a saved module"}
"""LoRA, as others above, and a copied module, as in test_own_contract.py."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in ALIKE else ()) for name in SOUND],
)
def test_invariants_hold_or_say_why_they_do_not_apply(name):
    model, adapter = SOUND[name]
    record = measured(fine_tune(adapter, **model))
    assert record.status == "ok", record.error
    assert set(false_facts(record)) == WRONG.get(name, set())
    silent = {fact for fact, holds in record.invariants.items() if holds is None}
    assert silent <= record.invariant_notes.keys()
    if name == "a prompt":
        assert "does not load a prompt" in record.invariant_notes["reload_keeps_trainable"]


def test_a_second_adapter_of_tied_tokens_breaks_the_model():
    # docs/findings/peft-tied-tokens-second-adapter.py
    tokens = peft.TrainableTokensConfig(token_indices=[1], target_modules=["wte"])
    found = false_facts(measured(fine_tune(tokens, **LM)))
    assert set(found) == {"adapters_do_not_leak", "delete_leaves_nothing"}
    assert "TrainableTokensLayer wraps an unknown layer" in found["adapters_do_not_leak"]


def test_merging_into_a_tied_embedding_is_a_false_merge_that_names_the_tied_layer():
    # peft merges into the weight that the output layer shares.
    record = measured(fine_tune(peft.LoraConfig(r=2, target_modules=["wte"]), **LM))
    assert set(false_facts(record)) == {"merge_equals_unmerged"}
    assert false_facts(record)["merge_equals_unmerged"].endswith("first in layer lm_head")


def test_a_prompt_on_a_model_that_cannot_generate_cannot_be_switched_off():
    # peft's disable_adapter() raises of its own there.
    prompt = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    found = false_facts(measured(fine_tune(prompt, **CLASSES)))
    assert set(found) == {"disabled_equals_base", "toggling_keeps_trainable"}
    assert "UnboundLocalError" in found["disabled_equals_base"]
