"""The formulas of VeRA, FourierFT and HiRA against peft."""

from __future__ import annotations

import pytest
from adapted_layers import apart, layer, run

CLOSE = 2e-5

CASES = {
    "vera": ("vera", layer(), {"r": 3}),
    "vera transposed": ("vera", layer("transposed_linear"), {"r": 9, "d_initial": 0.5}),
    "fourierft": ("fourierft", layer(), {"n_frequency": 5}),
    "fourierft transposed": ("fourierft", layer("transposed_linear"), {"n_frequency": 24}),
    "fourierft seed": ("fourierft", layer(), {"n_frequency": 5, "random_loc_seed": 1}),
    "hira": ("hira", layer(), {"r": 2}),
    "hira transposed": ("hira", layer("transposed_linear"), {"r": 9}),
    "hira embedding": ("hira", layer("embedding"), {"r": 2}),
    "hira conv1d": ("hira", layer("conv1d", padding=(1,), dilation=(2,)), {"r": 2}),
    "hira conv2d": ("hira", layer("conv2d", kernel=(3, 1), stride=(2, 1)), {"r": 2}),
    "hira conv3d": ("hira", layer("conv3d", kernel=(2, 1, 3)), {"r": 2}),
}


@pytest.mark.parametrize(("method", "part", "settings"), CASES.values(), ids=CASES)
def test_peft_computes_the_formula_unmerged_and_merged(method, part, settings):
    results = run(method, part, settings)

    assert apart(results.unmerged, results.base) > 1e-3
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        ("vera", {"r": 3}, {"r": 3}),
        ("fourierft", {"n_frequency": 5}, {"n_frequency": 7, "scaling": 10.0}),
        ("hira", {"r": 2}, {"r": 3}),
    ],
)
def test_two_adapters_add_their_updates(method, first, second):
    results = run(method, layer(), first, second)

    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE
