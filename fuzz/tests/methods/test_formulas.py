"""The formulas against peft: what it computes with filled adapters, unmerged and merged."""

import math
from pathlib import Path
from typing import NamedTuple

import peft
import pytest
import torch
from torch import Tensor, nn

from peft_fuzz.acts import Activate, Add, Fill, Merge
from peft_fuzz.methods import METHODS
from peft_fuzz.methods.method import LayerAdapter
from peft_fuzz.methods.rotations import hra
from peft_fuzz.networks.network import DIMENSIONS, AdaptedNetwork, Adapter, Layer, Network
from peft_fuzz.oracle.gradients import check_gradients
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.owned import adapter_tensors


def layer(kind="linear", *, inputs=4, outputs=6, **fields):
    if kind in DIMENSIONS:
        fields = {"kernel": (3,) * DIMENSIONS[kind], **fields}
    return Layer(name="net.part", kind=kind, inputs=inputs, outputs=outputs, **fields)


pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of odd settings
CLOSE = 2e-5
LINEAR = layer(inputs=8)
SIZES = {
    "embedding": (4,),
    "attention": (5,),
    "conv1d": (7,),
    "conv2d": (7, 6),
    "conv3d": (7, 6, 5),
}
SMALL = layer("conv2d", kernel=(1, 1), stride=(2, 2))
CONVOLUTION = layer("conv2d", padding=(1, 1), stride=(2, 2))
GROUPED = layer("conv2d", inputs=8, outputs=8, groups=2)
LORA_LAYERS = [
    layer(),
    layer(bias=False),
    layer("transposed_linear"),
    layer("transposed_linear", outputs=4),
    layer("embedding"),
    layer("conv1d", padding=(1,)),
    layer("conv2d", stride=(2, 1), padding=(1, 0), bias=False),
    layer("conv2d", kernel=(1, 1)),
    layer("conv2d", kernel=(3, 1)),
    layer("conv3d", kernel=(2, 1, 3)),
]
LYCORIS_LAYERS = [
    layer(),
    layer(inputs=12, outputs=16),
    layer("conv1d", inputs=36, outputs=36, padding=(1,), dilation=(2,)),
    layer("conv2d", inputs=8, outputs=8, padding=(1, 0), stride=(2, 1)),
    SMALL,
    layer("conv2d", inputs=36, outputs=36, kernel=(3, 1)),
    GROUPED,
]
IA3_LAYERS = [
    layer(),
    layer("transposed_linear"),
    layer("transposed_linear", outputs=4),
    layer("conv2d", padding=(1, 0), stride=(2, 1)),
    layer("conv2d", outputs=8, groups=2, dilation=(2, 1)),
    layer("conv3d", kernel=(2, 1, 3), bias=False),
]
LORA_SETTINGS = [
    {"r": 2},
    {"r": 4, "lora_alpha": 3},
    {"r": 9, "lora_alpha": 3},
    {"r": 4, "lora_alpha": 3, "use_rslora": True},
    {"r": 2, "rank_pattern": {"part": 4}, "alpha_pattern": {"net.part": 32}},
]
LYCORIS_SETTINGS = [
    {"r": 1},
    {"r": 2, "alpha": 3},
    {"r": 9},
    {"r": 2, "use_effective_conv2d": True},
    {"r": 1, "rank_pattern": {"part": 2}, "alpha_pattern": {"net.part": 32}},
]
LOKR_SETTINGS = [
    *LYCORIS_SETTINGS,
    {"r": 1, "decompose_both": True, "decompose_factor": 2},
    {"r": 1, "decompose_factor": 4},
]
ADALORA = {"target_r": 1, "tinit": 50, "tfinal": 10, "total_step": 100}


def pairs(layers, settings):
    """Return each layer with the plainest settings, and each of the settings on a few layers."""
    few = [one for one in layers if one.kind in {"linear", "conv2d"}][:3]
    return [
        *((part, settings[0]) for part in layers),
        *((part, each) for each in settings[1:] for part in few),
    ]


CASES = [
    *(("lora", *pair) for pair in pairs(LORA_LAYERS, LORA_SETTINGS)),
    *(("dora", *pair) for pair in pairs(LORA_LAYERS, LORA_SETTINGS)),
    *(("loha", *pair) for pair in pairs(LYCORIS_LAYERS, LYCORIS_SETTINGS)),
    *(("lokr", *pair) for pair in pairs(LYCORIS_LAYERS, LOKR_SETTINGS)),
    *(("ia3", part, {"feedforward_modules": []}) for part in IA3_LAYERS),
    *(("ia3", part, {"feedforward_modules": ["net.part"]}) for part in IA3_LAYERS),
    ("adalora", layer(), {**ADALORA, "init_r": 3}),
    ("adalora", layer("transposed_linear"), {**ADALORA, "init_r": 2, "lora_alpha": 3}),
    ("adalora", layer("conv2d", kernel=(3, 1), dilation=(2, 1)), {**ADALORA, "init_r": 3}),
    ("vera", layer(), {"r": 3}),
    ("vera", layer("transposed_linear"), {"r": 9, "d_initial": 0.5}),
    ("fourierft", layer(), {"n_frequency": 5}),
    ("fourierft", layer("transposed_linear"), {"n_frequency": 24}),
    ("fourierft", layer(), {"n_frequency": 5, "random_loc_seed": 1}),
    ("hira", layer(), {"r": 2}),
    ("hira", layer("transposed_linear"), {"r": 9}),
    ("hira", layer("embedding"), {"r": 2}),
    ("hira", layer("conv1d", padding=(1,), dilation=(2,)), {"r": 2}),
    ("hira", layer("conv2d", kernel=(3, 1), stride=(2, 1)), {"r": 2}),
    ("hira", layer("conv3d", kernel=(2, 1, 3)), {"r": 2}),
    ("oft", LINEAR, {"oft_block_size": 4}),
    ("oft", LINEAR, {"r": 2, "oft_block_size": 0}),
    ("oft", LINEAR, {"oft_block_size": 4, "use_cayley_neumann": False}),
    ("oft", LINEAR, {"oft_block_size": 4, "num_cayley_neumann_terms": 7}),
    ("oft", LINEAR, {"oft_block_size": 4, "block_share": True}),
    ("oft", SMALL, {"oft_block_size": 2}),
    ("oft", layer("embedding"), {"oft_block_size": 3}),
    ("boft", LINEAR, {"boft_block_size": 4}),
    ("boft", LINEAR, {"boft_block_size": 0, "boft_block_num": 4}),
    ("boft", CONVOLUTION, {"boft_block_size": 4}),
    ("hra", LINEAR, {"r": 4}),
    ("hra", LINEAR, {"r": 3}),
    ("hra", LINEAR, {"r": 3, "apply_GS": True}),
    ("hra", CONVOLUTION, {"r": 2}),
    ("shira", layer(inputs=8, outputs=12), {"r": 1, "init_weights": False}),
    ("c3a", layer(inputs=8, outputs=12), {"block_size": 2}),
    ("c3a", layer(inputs=8, outputs=12), {"block_size": 4}),
    *(
        ("lora", layer(kind), {"r": 4, "lora_alpha": 16, "lora_bias": True})
        for kind in ("linear", "conv1d", "conv2d", "conv3d", "transposed_linear")
    ),
    # The update of a grouped convolution is dense, and not merged.
    ("lora", layer("conv2d", inputs=4, outputs=6, groups=2, padding=(1, 1)), {"r": 4}),
    # Two adapters.
    ("lora", layer(), {"r": 2}, {"r": 2, "lora_alpha": 3}),
    ("lora", layer("conv2d"), {"r": 2}, {"r": 2, "lora_alpha": 3}),
    ("lora", layer("embedding"), {"r": 2}, {"r": 2, "lora_alpha": 3}),
    ("loha", layer(), {"r": 2}, {"r": 3, "alpha": 2}),
    ("lokr", layer(), {"r": 2}, {"r": 3, "alpha": 2}),
    ("ia3", layer(), {"feedforward_modules": []}, {"feedforward_modules": []}),
    ("vera", layer(), {"r": 3}, {"r": 3}),
    ("fourierft", layer(), {"n_frequency": 5}, {"n_frequency": 7, "scaling": 10.0}),
    ("hira", layer(), {"r": 2}, {"r": 3}),
    ("oft", LINEAR, {"oft_block_size": 4}, {"oft_block_size": 4}),
    ("boft", LINEAR, {"boft_block_size": 4}, {"boft_block_size": 4}),
    ("hra", LINEAR, {"r": 2}, {"r": 2}),
]


class Results(NamedTuple):
    """Outputs of one layer: without adapters, and with them by the formula, unmerged and merged."""

    base: Tensor
    by_formula: Tensor | None
    unmerged: Tensor
    merged: Tensor | None


def run(method, part, *settings, fills=True, merges=True, differentiates=False):
    names = ["default", "other"][: len(settings)]
    each = zip(names, settings, strict=True)
    on = AdaptedNetwork(
        network=Network(layers=(part,), sizes=SIZES.get(part.kind, ()), batch=3),
        method=method,
        adapters=tuple(
            Adapter(name=name, settings={"target_modules": [part.name], **one})
            for name, one in each
        ),
    )
    life = Life(on, METHODS[method], Path("unused"), autocast=True)
    life.wrap()
    acts = [Fill()] if fills else []
    for name in names[1:]:
        acts += [Add(adapter=name), Activate(adapters=(name,)), Fill(seed=1)]
        acts += [Activate(adapters=tuple(names))]
    for act in acts:
        act.carry_out(life)
        life.plan = act.after(life.plan)
    parameters, unmerged = life.parameters(names), life.observe()
    if differentiates:
        check_gradients(life)
    if merges:
        Merge().carry_out(life)
    return Results(
        base=life.start,
        by_formula=None if parameters is None else life.oracle.output(parameters),
        unmerged=unmerged,
        merged=life.observe() if merges else None,
    )


def apart(one, other):
    assert one.shape == other.shape
    largest = max(one.abs().max(), other.abs().max())
    return float((one.double() - other.double()).abs().max() / largest)


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_the_formula_unmerged_and_merged(case):
    method, part, *settings = case
    is_wrong = method == "loha" and "use_effective_conv2d" in settings[0]  # its gradient
    results = run(*case, merges=(method, part.groups) != ("lora", 2), differentiates=not is_wrong)
    assert apart(results.unmerged, results.base) > 1e-4
    assert apart(results.unmerged, results.by_formula) < CLOSE
    # peft merges several rotations of OFT in another order than it applies them.
    if results.merged is not None and (method, len(settings)) != ("oft", 2):
        assert apart(results.merged, results.by_formula) < CLOSE


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *(("lora", {"r": 2, "init_lora_weights": s}) for s in ("pissa", "olora", True, "gaussian")),
        ("oft", {"oft_block_size": 4}),
        ("boft", {"boft_block_size": 4}),
        ("hra", {"r": 4}),
    ],
)
def test_what_starts_as_the_identity_does_so_also_where_it_moves_the_base(method, settings):
    results = run(method, LINEAR, settings, fills=False)
    assert apart(results.base, results.by_formula) < CLOSE
    assert apart(results.unmerged, results.by_formula) < CLOSE


def test_a_start_that_is_not_drawn_is_no_identity():
    results = run("lora", layer(), {"r": 2, "init_lora_weights": False}, fills=False)
    assert apart(results.base, results.by_formula) > 1e-2
    assert torch.isfinite(results.by_formula).all()


@pytest.mark.parametrize(
    ("method", "part", "settings", "how"),
    [
        # docs/findings/peft-multihead-attention.py: the output's update twice.
        ("lora", layer("attention", inputs=4, outputs=4, heads=2), {"r": 2}, {"merges": False}),
        # docs/findings/peft-oft-convolution.py: patches are rotated when merged alone.
        ("oft", CONVOLUTION, {"oft_block_size": 4}, {}),
        # The Kronecker product of a matrix and a factor of three dimensions.
        ("lokr", layer("conv1d", inputs=8, outputs=8), {"r": 9}, {}),
    ],
)
def test_where_peft_computes_something_else(method, part, settings, how):
    results = run(method, part, settings, **how)
    assert apart(results.unmerged, results.by_formula) > 1e-2
    assert method != "oft" or apart(results.merged, results.by_formula) < CLOSE


def test_peft_fails_on_a_core_of_rank_1_and_one_dimension():
    """peft 0.21.2, torch 2.13: `torch.kron` cannot view what `einsum` made."""
    part = layer("conv1d", inputs=36, outputs=36)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        run("lokr", part, {"r": 1, "use_effective_conv2d": True})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dora", [{"r": 2}, {"r": 2}]),  # two adapters
        ("oft", [{"oft_block_size": 4, "coft": True}]),
        ("oft", [{"oft_block_size": 4, "num_cayley_neumann_terms": 3}]),
    ],
)
def test_where_peft_departs_from_the_paper_no_formula_tells(method, settings):
    assert run(method, LINEAR, *settings).by_formula is None


def test_hra_has_no_formula_for_vectors_that_are_not_finite():
    adapter = LayerAdapter(
        settings={"apply_GS": True}, layer_name="l", tensors={"hra_u": torch.full((8, 2), math.nan)}
    )
    assert hra(nn.Linear(8, 4).double(), LINEAR, [adapter]) is None


def test_shared_projections_do_not_put_an_adapter_on_a_layer():
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), peft.VeraConfig(r=2, target_modules=["0"])
    )
    model.add_adapter("other", peft.VeraConfig(r=2, target_modules=["0", "1"]))
    first, second = model.base_model.model
    assert "vera_lambda_b" in adapter_tensors(first, "default")
    assert adapter_tensors(second, "default") == {}
    assert "vera_A" in adapter_tensors(second, "other")
