"""The fields of the methods in `methods.others`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import Any, Final

from hypothesis import strategies as st

from peft_fuzz.draw.fields import RANKS, Fields, off, on, sizes_of, values
from peft_fuzz.draw.targets import pattern
from peft_fuzz.example import Layer


def _common(layers: Sequence[Layer]) -> list[int]:
    """Return what divides the inputs and outputs of all layers; the first is above 1 if any is."""
    shared = gcd(*sizes_of(layers))
    return [size for size in (2, 4, shared) if shared % size == 0] or [1]


def _within(layers: Sequence[Layer]) -> list[int]:
    """Return ranks up to the smallest size."""
    smallest = min(sizes_of(layers))
    return [rank for rank in (2, 1, 3, 4) if rank <= smallest]


def _ranked(*, bias: str | None = None, **sometimes: Any) -> Callable[[Sequence[Layer]], Fields]:
    """Draw a rank up to the layers' size, and now and then these fields."""
    return lambda layers: Fields(
        always={"r": st.sampled_from(_within(layers))}, sometimes=sometimes, bias=bias
    )


def _plain(**sometimes: Any) -> Callable[[Sequence[Layer]], Fields]:
    return lambda _layers: Fields(sometimes=sometimes)


def _c3a(layers: Sequence[Layer]) -> Fields:
    sizes = st.sampled_from(_common(layers))
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
            "vector_length": st.sampled_from(_common(layers)),
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
    blocks = _common(layers)[0]
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


def _shared_projection(dropout: str, bias: str, **more: Any) -> Callable[[Sequence[Layer]], Fields]:
    return lambda _layers: Fields(
        always={"r": values(*RANKS)},
        sometimes={
            dropout: values(0.5),
            "save_projection": off(),
            "projection_prng_key": values(1),
            "init_weights": off(),
            **more,
        },
        bias=bias,
        shared=("projection_prng_key", "save_projection"),
    )


OTHERS: Final[Mapping[str, Callable[[Sequence[Layer]], Fields]]] = {
    "beft": _plain(init_weights=off()),
    "bone": _ranked(init_weights=st.sampled_from(("bat", False))),
    "c3a": _c3a,
    "deft": _ranked(
        bias="deft_only",
        decomposition_method=values("qr"),
        para=on(),
        deft_dropout=values(0.5),
        init_weights=off(),
    ),
    "delora": _delora,
    "frod": lambda _layers: Fields(
        always={"progressbar": off()},
        sometimes={
            "sparse_rate": values(0.1),
            "frod_dropout": values(0.5),
            "save_projection": off(),
            "init_weights": off(),
        },
        bias="frod_only",
        shared=("projection_prng_key", "save_projection"),
    ),
    "glora": _ranked(
        config_A_B=values("vector", "constant", "none"),
        config_C=values("vector", "none"),
        config_D_E=values("vector", "none"),
        init_weights=off(),
    ),
    "gralora": _gralora,
    "lily": _ranked(num_B=values(3), scaling=values(2.0), init_weights=off()),
    "ln_tuning": _plain(),
    "miss": _ranked(
        bias="MiSS_only",
        miss_dropout=values(0.5),
        init_weights=st.sampled_from(("bat", False)),
    ),
    "osf": lambda layers: Fields(
        always={"effective_rank": st.sampled_from(_within(layers))},
        sometimes={"init_weights": off()},
    ),
    "peanut": _ranked(
        depth=values(2), act_fn=values("tanh"), scaling=values(2.0), init_weights=off()
    ),
    "psoft": _ranked(
        psoft_alpha=values(1),
        psoft_orth=off(),
        psoft_mag_a=off(),
        psoft_mag_b=off(),
        use_cayley_neumann=on(),
        psoft_dropout=values(0.5),
        init_weights=off(),
    ),
    "pvera": _shared_projection("pvera_dropout", "pvera_only"),
    "randlora": _shared_projection(
        "randlora_dropout", "randlora_only", randlora_alpha=values(8), sparse=on()
    ),
    "road": _road,
    "shira": _shira,
    "tinylora": _ranked(
        bias="tinylora_only",
        u=values(8),
        weight_tying=values(1.0),
        save_projection=off(),
        tinylora_dropout=values(0.5),
        init_weights=values("uniform"),
    ),
    "unilora": _ranked(
        bias=None, theta_d_length=values(16), unilora_dropout=values(0.5), save_indices=on()
    ),
    "vblora": _vblora,
    "waveft": _waveft,
}
