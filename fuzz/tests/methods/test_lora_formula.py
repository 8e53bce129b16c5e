"""LoRA's and DoRA's formulas against peft."""

from __future__ import annotations

import pytest
import torch
from adapted_layers import apart, layer, run

CLOSE = 2e-5

LAYERS = {
    "linear": layer(),
    "linear without bias": layer(bias=False),
    "transposed": layer("transposed_linear"),
    "square transposed": layer("transposed_linear", outputs=4),
    "embedding": layer("embedding"),
    "conv1d": layer("conv1d", padding=(1,)),
    "conv2d": layer("conv2d", stride=(2, 1), padding=(1, 0), bias=False),
    "conv2d 1x1": layer("conv2d", kernel=(1, 1)),
    "conv2d 3x1": layer("conv2d", kernel=(3, 1)),
    "conv3d": layer("conv3d", kernel=(2, 1, 3)),
}
SETTINGS = {
    "plain": {"r": 2},
    "alpha": {"r": 4, "lora_alpha": 3},
    "above the size": {"r": 9, "lora_alpha": 3},
    "stable": {"r": 4, "lora_alpha": 3, "use_rslora": True},
    "patterns": {"r": 2, "rank_pattern": {"part": 4}, "alpha_pattern": {"net.part": 32}},
}


@pytest.mark.parametrize("part", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_peft_computes_the_formula_unmerged_and_merged(method, settings, part):
    results = run(method, part, settings)

    assert apart(results.unmerged, results.base) > 1e-2
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv3d", "transposed_linear"])
def test_the_bias_of_b_has_the_scale_of_the_update(kind):
    results = run("lora", layer(kind), {"r": 4, "lora_alpha": 16, "lora_bias": True})

    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


def test_the_update_of_a_grouped_convolution_is_dense():
    part = layer("conv2d", inputs=4, outputs=6, groups=2, padding=(1, 1))

    results = run("lora", part, {"r": 4}, merges=False)

    assert apart(results.unmerged, results.by_formula) < CLOSE


@pytest.mark.parametrize("kind", ["linear", "conv2d", "embedding"])
def test_two_adapters_add_their_updates(kind):
    results = run("lora", layer(kind), {"r": 2}, {"r": 2, "lora_alpha": 3})

    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


def test_two_adapters_of_dora_have_no_formula():
    assert run("dora", layer(), {"r": 2}, {"r": 2}).by_formula is None


def test_a_factor_multiplies_the_scale():
    results = run("lora", layer(), {"r": 2, "use_rslora": True}, factor=0.5)

    assert apart(results.unmerged, results.by_formula) < CLOSE


def test_an_attention_has_both_projections_adapted():
    """peft 0.21.2 applies the output's update twice (docs/findings/peft-multihead-attention.md)."""
    results = run("lora", layer("attention", inputs=4, outputs=4, heads=2), {"r": 2}, merges=False)

    assert apart(results.unmerged, results.by_formula) > 1e-2


@pytest.mark.parametrize("start", ["pissa", "olora", True, "gaussian"])
def test_a_start_that_moves_the_base_is_the_identity_with_the_moved_base(start):
    results = run("lora", layer(), {"r": 2, "init_lora_weights": start}, fill=0)

    assert apart(results.base, results.by_formula) < CLOSE
    assert apart(results.unmerged, results.by_formula) < CLOSE


def test_a_start_that_is_not_drawn_is_no_identity():
    results = run("lora", layer(), {"r": 2, "init_lora_weights": False}, fill=0)

    assert apart(results.base, results.by_formula) > 1e-2
    assert torch.isfinite(results.by_formula).all()
