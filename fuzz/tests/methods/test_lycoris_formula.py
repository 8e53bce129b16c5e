"""The formulas of LoHa and LoKr against peft."""

from __future__ import annotations

import pytest
from adapted_layers import apart, layer, run

CLOSE = 2e-5

LAYERS = {
    "linear": layer(),
    "wide linear": layer(inputs=12, outputs=16),
    "conv1d": layer("conv1d", inputs=36, outputs=36, padding=(1,), dilation=(2,)),
    "conv2d": layer("conv2d", inputs=8, outputs=8, padding=(1, 0), stride=(2, 1)),
    "conv2d 1x1": layer("conv2d", kernel=(1, 1)),
    "conv2d 3x1": layer("conv2d", inputs=36, outputs=36, kernel=(3, 1)),
    "grouped": layer("conv2d", inputs=8, outputs=8, groups=2),
}
SETTINGS = {
    "plain": {"r": 1},
    "alpha": {"r": 2, "alpha": 3},
    "above the size": {"r": 9},
    "core": {"r": 2, "use_effective_conv2d": True},
    "patterns": {"r": 1, "rank_pattern": {"part": 2}, "alpha_pattern": {"net.part": 32}},
}
FACTORS = {
    "both": {"r": 1, "decompose_both": True, "decompose_factor": 2},
    "factor": {"r": 1, "decompose_factor": 4},
}
CASES = [
    pytest.param(method, part, settings, id=f"{method}-{name}-{setting}")
    for name, part in LAYERS.items()
    for method, all_settings in (("loha", SETTINGS), ("lokr", {**SETTINGS, **FACTORS}))
    for setting, settings in all_settings.items()
    # A full second factor of a Conv1d: see below.
    if not (method == "lokr" and part.kind == "conv1d" and settings["r"] == 9)
]


@pytest.mark.parametrize(("method", "part", "settings"), CASES)
def test_peft_computes_the_formula_unmerged_and_merged(method, part, settings):
    results = run(method, part, settings)

    assert apart(results.unmerged, results.base) > 1e-4
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_two_adapters_add_their_updates(method):
    results = run(method, layer(), {"r": 2}, {"r": 3, "alpha": 2})

    assert apart(results.unmerged, results.by_formula) < CLOSE


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_a_factor_multiplies_the_scale(method):
    results = run(method, layer(), {"r": 2}, factor=0.5)

    assert apart(results.unmerged, results.by_formula) < CLOSE


def test_peft_mixes_channels_and_positions_of_a_one_dimensional_convolution():
    """peft 0.21.2 takes the Kronecker product of a matrix and a three-dimensional factor."""
    results = run("lokr", layer("conv1d", inputs=8, outputs=8), {"r": 9})

    assert apart(results.unmerged, results.by_formula) > 1e-2


def test_peft_fails_on_a_core_of_rank_1_and_one_dimension():
    """peft 0.21.2, torch 2.13: `torch.kron` cannot view what `einsum` made."""
    part = layer("conv1d", inputs=36, outputs=36)

    with pytest.raises(RuntimeError, match="view size is not compatible"):
        run("lokr", part, {"r": 1, "use_effective_conv2d": True})
