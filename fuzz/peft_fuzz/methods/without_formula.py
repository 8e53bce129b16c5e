"""Other methods: no formula is carried out here, or a short one; all other checks hold of them.

Their functions are nonlinear in the weights, draw random projections, or start from a decomposition
of the weight that only the library's own code repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Final

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from peft_fuzz.methods.fields import (
    RANKS,
    SHARED_PROJECTION,
    Fields,
    common,
    off,
    on,
    pattern,
    plain,
    projected,
    ranked,
    values,
    within,
)
from peft_fuzz.methods.method import (
    CONFIGS,
    DENSE,
    LayerAdapter,
    Limit,
    Method,
    always,
    as_rows,
    never,
    starts_true,
)
from peft_fuzz.networks.network import Layer


def shira(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W with numbers added at fixed places; Bhardwaj et al., SHiRA, arXiv:2406.13175."""
    weight = as_rows(base.weight, layer.kind).clone()  # type: ignore[arg-type]
    for adapter in adapters:
        rows, columns = adapter.tensors["shira_indices"].long()
        values = adapter.scale * adapter.tensors["shira_weight"]
        weight.index_put_((rows, columns), values, accumulate=True)
    return {"weight": as_rows(weight, layer.kind)}


def c3a(base: nn.Module, layer: Layer, adapters: Sequence[LayerAdapter]) -> Mapping[str, Tensor]:
    """Return W + C / inputs, C of circulant blocks: entry (i, j) of a block is c[(j - i) mod b].

    Chen et al., C3A, arXiv:2407.19342; the division by the inputs is peft's.
    """
    weight: Tensor = base.weight  # type: ignore[assignment]
    for adapter in adapters:
        kernel = adapter.tensors["c3a_kernel"]  # (outputs / b, inputs / b, b)
        places = torch.arange(kernel.shape[-1])
        blocks = kernel[..., (places - places[:, None]) % kernel.shape[-1]]
        matrix = blocks.permute(0, 2, 1, 3).reshape(weight.shape)
        weight = weight + matrix / layer.inputs
    return {"weight": weight}


def _c3a(layers: Sequence[Layer]) -> Fields:
    sizes = st.sampled_from(common(layers))
    starts = values("xavier_uniform", "gaussian", "kaiming_uniform")
    return Fields(
        always={"block_size": sizes, "init_weights": on()},
        sometimes={"init_weights": starts, "block_size_pattern": pattern(layers, sizes)},
        bias="c3a_only",
    )


def _shira(layers: Sequence[Layer]) -> Fields:
    most = min(layer.inputs * layer.outputs // (layer.inputs + layer.outputs) for layer in layers)
    return Fields(
        always={"r": st.sampled_from([rank for rank in (1, 2) if rank <= most] or [1])},
        sometimes={"random_seed": values(1), "init_weights": off()},
    )


def _vblora(layers: Sequence[Layer]) -> Fields:
    return Fields(
        always={
            "r": values(2, 1, 3),
            "num_vectors": values(8),
            "vector_length": st.sampled_from(common(layers)),
        },
        sometimes={"topk": values(1, 3), "vblora_dropout": values(0.5)},
        bias="vblora_only",
    )


def _road(layers: Sequence[Layer]) -> Fields:
    shared = gcd(*(layer.outputs for layer in layers))
    even = [size for size in (2, 4, shared) if shared % size == 0 and size % 2 == 0]
    return Fields(
        always={"group_size": st.sampled_from(even or [2])},
        sometimes={"variant": values("road_2", "road_4"), "init_weights": off()},
    )


def _gralora(layers: Sequence[Layer]) -> Fields:
    blocks = common(layers)[0]
    return Fields(
        always={"gralora_k": values(blocks), "r": values(blocks, 2 * blocks)},
        sometimes={
            "hybrid_r": values(2),
            "alpha": values(1, 16),
            "gralora_dropout": values(0.5),
            "init_weights": off(),
        },
        bias="gralora_only",
    )


def _delora(layers: Sequence[Layer]) -> Fields:
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "delora_lambda": values(1),
            "module_dropout": values(0.5),
            "init_weights": off(),
            "rank_pattern": pattern(layers, values(*RANKS)),
            "lambda_pattern": pattern(layers, values(1, 30)),
        },
        bias="delora_only",
    )


def _waveft(layers: Sequence[Layer]) -> Fields:
    most = min(layer.inputs * layer.outputs for layer in layers)
    numbers = st.integers(1, most)
    return Fields(
        always={"n_frequency": numbers},
        sometimes={
            "scaling": values(1.0),
            "wavelet_family": values("db2"),
            "use_idwt": off(),
            "random_loc_seed": values(1),
            "init_weights": off(),
            "n_frequency_pattern": pattern(layers, numbers),
        },
        bias="waveft_only",
    )


def _frod(_layers: Sequence[Layer]) -> Fields:
    return Fields(
        always={"progressbar": off()},
        sometimes={
            "sparse_rate": values(0.1),
            "frod_dropout": values(0.5),
            "save_projection": off(),
            "init_weights": off(),
        },
        bias="frod_only",
        shared=SHARED_PROJECTION,
    )


def _osf(layers: Sequence[Layer]) -> Fields:
    return Fields(
        always={"effective_rank": st.sampled_from(within(layers))},
        sometimes={"init_weights": off()},
    )


OTHERS: Final = (
    Method(
        "c3a",
        "C3AConfig",
        "arXiv:2407.19342",
        _c3a,
        formula=c3a,
        by_hand="added",
        trains=("c3a_kernel",),
        identity=starts_true,
    ),
    Method(
        "shira",
        "ShiraConfig",
        "arXiv:2406.13175",
        _shira,
        formula=shira,
        by_hand="added",
        trains=("shira_weight",),
    ),
    Method("vblora", "VBLoRAConfig", "arXiv:2405.15179", _vblora, kinds=DENSE, identity=never),
    Method(
        "randlora",
        "RandLoraConfig",
        "arXiv:2502.00987",
        projected("randlora_dropout", "randlora_only", randlora_alpha=values(8), sparse=on()),
        kinds=DENSE,
        by_hand="added",
        limits=(
            Limit(
                "or greater is required|PRNG key|save_projection",
                "error text of peft.tuners.randlora",
            ),
        ),
    ),
    Method(
        "miss",
        "MissConfig",
        "arXiv:2409.15371",
        ranked(bias="MiSS_only", miss_dropout=values(0.5), init_weights=values("bat", False)),
    ),
    Method("bone", "BoneConfig", "arXiv:2409.15371", ranked(init_weights=values("bat", False))),
    Method(
        "ln_tuning",
        CONFIGS["ln_tuning"],
        "arXiv:2312.11420",
        plain(),
        kinds=frozenset({"conv2d", "linear"}),
        abilities=frozenset({"merge", "unmerge"}),
        exchanges=True,
        identity=always,
    ),
    Method("road", "RoadConfig", "arXiv:2409.00119", _road),
    Method("gralora", "GraloraConfig", "arXiv:2505.20355", _gralora, kinds=DENSE, by_hand="added"),
    Method("delora", "DeloraConfig", "arXiv:2503.18225", _delora, by_hand="added"),
    Method("waveft", "WaveFTConfig", "arXiv:2505.12532", _waveft, kinds=DENSE),
    Method(
        "psoft",
        "PsoftConfig",
        "documentation of peft: PSOFT",
        ranked(
            psoft_alpha=values(1),
            psoft_orth=off(),
            psoft_mag_a=off(),
            psoft_mag_b=off(),
            use_cayley_neumann=on(),
            psoft_dropout=values(0.5),
            init_weights=off(),
        ),
        by_hand="added",
    ),
    Method(
        "tinylora",
        "TinyLoraConfig",
        "documentation of peft: TinyLoRA",
        ranked(
            bias="tinylora_only",
            u=values(8),
            weight_tying=values(1.0),
            save_projection=off(),
            tinylora_dropout=values(0.5),
            init_weights=values("uniform"),
        ),
        kinds=DENSE,
        by_hand="added",
        identity=starts_true,
    ),
    Method(
        "frod", "FrodConfig", "documentation of peft: FRoD", _frod, kinds=DENSE, by_hand="added"
    ),
    Method(
        "peanut",
        "PeanutConfig",
        "documentation of peft: PEANuT",
        ranked(depth=values(2), act_fn=values("tanh"), scaling=values(2.0), init_weights=off()),
    ),
    Method(
        "glora",
        "GloraConfig",
        "arXiv:2306.07967",
        ranked(
            config_A_B=values("vector", "constant", "none"),
            config_C=values("vector", "none"),
            config_D_E=values("vector", "none"),
            init_weights=off(),
        ),
    ),
    Method("osf", "OSFConfig", "documentation of peft: OSF", _osf, abilities=frozenset({"merge"})),
    Method("beft", "BeftConfig", "documentation of peft: BEFT", plain(init_weights=off())),
    Method(
        "unilora",
        "UniLoraConfig",
        "documentation of peft: UniLoRA",
        ranked(theta_d_length=values(16), unilora_dropout=values(0.5), save_indices=on()),
        kinds=DENSE,
        by_hand="added",
        identity=never,
    ),
    Method(
        "pvera",
        "PveraConfig",
        "documentation of peft: PVeRA",
        projected("pvera_dropout", "pvera_only"),
        kinds=DENSE,
        by_hand="added",
        random=always,
    ),
    Method(
        "lily",
        "LilyConfig",
        "documentation of peft: Lily",
        ranked(num_B=values(3), scaling=values(2.0), init_weights=off()),
        abilities=frozenset({"several_active"}),
    ),
    Method(
        "deft",
        "DeftConfig",
        "documentation of peft: DEFT",
        ranked(
            bias="deft_only",
            decomposition_method=values("qr"),
            para=on(),
            deft_dropout=values(0.5),
            init_weights=off(),
        ),
        kinds=DENSE,
        by_hand="added",
        identity=lambda settings: bool(settings["init_weights"]) and not settings["para"],
    ),
)
