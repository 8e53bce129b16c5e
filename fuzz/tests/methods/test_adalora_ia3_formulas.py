"""The formulas of AdaLoRA and (IA)^3 against peft."""

from __future__ import annotations

import pytest
from adapted_layers import apart, layer, run

CLOSE = 2e-5
SCHEDULE = {"target_r": 1, "tinit": 50, "tfinal": 10, "total_step": 100}


@pytest.mark.parametrize(
    "part",
    [
        layer(),
        layer("transposed_linear"),
        layer("conv2d", padding=(1, 0), stride=(2, 1), bias=False),
        layer("conv2d", kernel=(3, 1), dilation=(2, 1)),
    ],
    ids=["linear", "transposed", "conv2d", "conv2d 3x1"],
)
@pytest.mark.parametrize("settings", [{"init_r": 3}, {"init_r": 2, "lora_alpha": 3}])
def test_peft_computes_adalora_unmerged_and_merged(part, settings):
    results = run("adalora", part, {**SCHEDULE, **settings})

    assert apart(results.unmerged, results.base) > 1e-2
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


@pytest.mark.parametrize("forward", [True, False], ids=["feed-forward", "outputs"])
@pytest.mark.parametrize(
    "part",
    [
        layer(),
        layer("transposed_linear"),
        layer("transposed_linear", outputs=4),
        layer("conv2d", padding=(1, 0), stride=(2, 1)),
        layer("conv2d", outputs=8, groups=2, dilation=(2, 1)),
        layer("conv3d", kernel=(2, 1, 3), bias=False),
    ],
    ids=["linear", "transposed", "square transposed", "conv2d", "grouped", "conv3d"],
)
def test_peft_computes_ia3_unmerged_and_merged(part, forward):
    results = run("ia3", part, {"feedforward_modules": ["net.part"] if forward else []})

    assert apart(results.unmerged, results.base) > 1e-2
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


def test_two_adapters_of_ia3_multiply_their_factors():
    settings = {"feedforward_modules": []}

    results = run("ia3", layer(), settings, settings)

    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE
