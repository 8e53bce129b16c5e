"""The formulas of OFT, BOFT and HRA against peft."""

from __future__ import annotations

import math

import pytest
import torch
from adapted_layers import apart, layer, run
from torch import nn

from peft_fuzz.methods.method import LayerAdapter
from peft_fuzz.methods.rotations import hra

CLOSE = 2e-5

LINEAR = layer(inputs=8)
SMALL = layer("conv2d", kernel=(1, 1), stride=(2, 2))
CONVOLUTION = layer("conv2d", padding=(1, 1), stride=(2, 2))
CASES = {
    "oft": ("oft", LINEAR, {"oft_block_size": 4}),
    "oft by number": ("oft", LINEAR, {"r": 2, "oft_block_size": 0}),
    "oft exact": ("oft", LINEAR, {"oft_block_size": 4, "use_cayley_neumann": False}),
    "oft 7 terms": ("oft", LINEAR, {"oft_block_size": 4, "num_cayley_neumann_terms": 7}),
    "oft shared": ("oft", LINEAR, {"oft_block_size": 4, "block_share": True}),
    "oft 1x1": ("oft", SMALL, {"oft_block_size": 2}),
    "oft embedding": ("oft", layer("embedding"), {"oft_block_size": 3}),
    "boft": ("boft", LINEAR, {"boft_block_size": 4}),
    "boft by number": ("boft", LINEAR, {"boft_block_size": 0, "boft_block_num": 4}),
    "boft conv2d": ("boft", CONVOLUTION, {"boft_block_size": 4}),
    "hra": ("hra", LINEAR, {"r": 4}),
    "hra odd": ("hra", LINEAR, {"r": 3}),
    "hra orthonormal": ("hra", LINEAR, {"r": 3, "apply_GS": True}),
    "hra conv2d": ("hra", CONVOLUTION, {"r": 2}),
}


@pytest.mark.parametrize(("method", "part", "settings"), CASES.values(), ids=CASES)
def test_peft_computes_the_formula_unmerged_and_merged(method, part, settings):
    results = run(method, part, settings)

    assert apart(results.unmerged, results.base) > 1e-2
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


def test_hra_has_no_formula_for_vectors_that_are_not_finite():
    adapter = LayerAdapter(
        settings={"apply_GS": True}, layer_name="l", tensors={"hra_u": torch.full((8, 2), math.nan)}
    )

    assert hra(nn.Linear(8, 4).double(), LINEAR, [adapter]) is None


@pytest.mark.parametrize(
    ("method", "settings"),
    [("oft", {"oft_block_size": 4}), ("boft", {"boft_block_size": 4}), ("hra", {"r": 2})],
)
def test_two_adapters_rotate_one_after_another(method, settings):
    results = run(method, LINEAR, settings, settings)

    assert apart(results.unmerged, results.by_formula) < CLOSE


def test_peft_rotates_patches_of_a_convolution_when_merged_alone():
    """docs/findings/peft-oft-convolution.md."""
    results = run("oft", CONVOLUTION, {"oft_block_size": 4})

    assert apart(results.merged, results.by_formula) < CLOSE
    assert apart(results.unmerged, results.by_formula) > 1e-2


@pytest.mark.parametrize("settings", [{"coft": True}, {"num_cayley_neumann_terms": 3}])
def test_oft_has_no_formula_where_peft_departs_from_the_paper(settings):
    assert run("oft", LINEAR, {"oft_block_size": 4, **settings}).by_formula is None


@pytest.mark.parametrize(
    ("method", "settings"),
    [("oft", {"oft_block_size": 4}), ("boft", {"boft_block_size": 4}), ("hra", {"r": 4})],
)
def test_starts_as_the_identity(method, settings):
    results = run(method, LINEAR, settings, fill=0)

    assert apart(results.base, results.by_formula) < CLOSE
