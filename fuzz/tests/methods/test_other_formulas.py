"""The formulas of SHiRA and C3A against peft, and what a layer holds for adapters that it lacks."""

from __future__ import annotations

import peft
import pytest
from adapted_layers import apart, layer, run
from torch import nn

from peft_fuzz.oracle.owned import adapter_tensors

CLOSE = 2e-5


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # once, by torch, of SHiRA
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("shira", {"r": 1, "init_weights": False}),
        ("c3a", {"block_size": 2}),
        ("c3a", {"block_size": 4}),
    ],
)
def test_peft_computes_the_formula_unmerged_and_merged(method, settings):
    results = run(method, layer(inputs=8, outputs=12), settings)

    assert apart(results.unmerged, results.base) > 1e-3
    assert apart(results.unmerged, results.by_formula) < CLOSE
    assert apart(results.merged, results.by_formula) < CLOSE


def test_shared_projections_do_not_put_an_adapter_on_a_layer():
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        peft.VeraConfig(r=2, target_modules=["0"]),
    )
    model.add_adapter("other", peft.VeraConfig(r=2, target_modules=["0", "1"]))
    first, second = model.base_model.model

    assert "vera_lambda_b" in adapter_tensors(first, "default")
    assert adapter_tensors(second, "default") == {}
    assert "vera_A" in adapter_tensors(second, "other")
