"""Models of transformers, with random weights, against closed forms of their hyperparameters."""

import warnings

import pytest
import torch
from network_zoo import BOTH, adamw

from peft_regress.cost import profile_training_step, training_cost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    import transformers


BATCH, TOKENS, WORDS, WIDTH, HEADS, LAYERS = 2, 8, 100, 32, 4, 2
ROWS = BATCH * TOKENS
FEED_FORWARD = 4 * WIDTH
PRODUCT_OF_SCORES = 2 * BATCH * TOKENS * TOKENS * WIDTH
"""Queries with keys, or scores with values, in all heads of a layer."""


def bert(*, dropout):
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FEED_FORWARD,
            num_labels=3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    ).train()


def tokens():
    return torch.randint(WORDS, (BATCH, TOKENS))


def cost_of(model, batch, *, fake):
    own_loss = lambda model, batch: model(**batch).loss  # noqa: E731
    return profile_training_step(model, adamw, batch=batch, loss=own_loss, fake=fake)


@BOTH
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_text_encoder_is_the_closed_form(dropout, fake):
    batch = transformers.BatchEncoding({"input_ids": tokens(), "labels": torch.tensor([0, 2])})
    cost = cost_of(bert(dropout=dropout), batch, fake=fake)
    linear = LAYERS * 2 * ROWS * (4 * WIDTH**2 + 2 * WIDTH * FEED_FORWARD)
    head = 2 * BATCH * (WIDTH**2 + WIDTH * 3)
    assert cost.forward_flops == linear + head + LAYERS * 2 * PRODUCT_OF_SCORES
    # With dropout the scores are kept for the backward pass; the fused kernel computes them again.
    products = 4 if dropout else 5
    assert cost.backward_flops == 2 * (linear + head) + LAYERS * products * PRODUCT_OF_SCORES


LM_LINEAR = LAYERS * 2 * ROWS * (4 * WIDTH**2 + 2 * WIDTH * FEED_FORWARD)
LM_HEAD = 2 * ROWS * WIDTH * WORDS


@BOTH
def test_lora_on_a_causal_language_model_is_the_closed_form(fake):
    rank = 2
    ids = tokens()
    gpt = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=TOKENS,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        loss_type="ForCausalLM",
    )  # fmt: skip
    config = peft.LoraConfig(r=rank, target_modules=["c_attn"], fan_in_fan_out=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers renames
        model = peft.get_peft_model(transformers.GPT2LMHeadModel(gpt).train(), config)
    batch = {"input_ids": ids, "labels": ids}
    cost = cost_of(model, batch, fake=fake)
    # A model with a loss of its own needs none.
    assert training_cost(model, batch, fake=fake).step == cost
    down, up = 2 * ROWS * WIDTH * rank, 2 * ROWS * rank * 3 * WIDTH
    attention = LAYERS * 2 * PRODUCT_OF_SCORES
    assert cost.forward_flops == LM_LINEAR + LM_HEAD + LAYERS * (down + up) + attention
    # Frozen layers pass on their input's gradient; nothing before the first adapter needs one.
    to_inputs = LM_LINEAR + LM_HEAD - 2 * ROWS * WIDTH * 3 * WIDTH
    adapters = LAYERS * (2 * up + down) + (LAYERS - 1) * down
    assert cost.backward_flops == to_inputs + adapters + LAYERS * 5 * PRODUCT_OF_SCORES
    assert {s.module for s in cost.flops_by_site if s.phase == "optimizer" and s.module} == {
        f"transformer.h.{layer}.attn.c_attn.lora_{part}.default"
        for layer in range(LAYERS)
        for part in "AB"
    }
