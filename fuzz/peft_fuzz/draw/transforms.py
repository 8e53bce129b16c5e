"""The fields of rotations, and of VeRA, FourierFT and HiRA."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any, Final

from hypothesis import strategies as st

from peft_fuzz.draw.fields import RANKS, Fields, inputs_of, off, on, values
from peft_fuzz.draw.targets import pattern
from peft_fuzz.example import Layer

MOST_HRA: Final = 4
BOTH: Final = (True, False)


def _blocks(layers: Sequence[Layer]) -> list[int]:
    """Return block sizes that divide all layers' inputs, or the smallest layer's size."""
    common = gcd(*(inputs_of(layer) for layer in layers))
    found = [size for size in (2, 4, 3, 8, common) if size > 1 and common % size == 0]
    return found or [min(inputs_of(layer) for layer in layers)]


def hra(layers: Sequence[Layer]) -> Fields:
    """Draw reflections; an even number starts as the identity."""
    return Fields(
        always={"r": values(2, 4, 1, 3)},
        sometimes={
            # More vectors than inputs cannot be orthonormal.
            **({"apply_GS": on()} if min(map(inputs_of, layers)) > MOST_HRA else {}),
            "init_weights": off(),
        },
        bias="hra_only",
    )


def boft(layers: Sequence[Layer]) -> Fields:
    """Draw blocks by size or number."""
    return Fields(
        always={"boft_block_size": st.sampled_from(_blocks(layers))},
        sometimes={
            "boft_block_num": values(2, 1),
            "boft_dropout": values(0.5),
            "boft_n_butterfly_factor": values(2),
            "init_weights": off(),
        },
        bias="boft_only",
        agree=lambda settings: _size_or_number(
            settings, "boft_block_size", "boft_block_num", layers
        ),
    )


def oft(layers: Sequence[Layer]) -> Fields:
    """Draw OFT; before peft 0.14 the number of blocks is the only field.

    Not its constrained form (coft): each call moves its parameters, as its authors' code does, so
    that no act leaves them as they are.
    """
    return Fields(
        always={"oft_block_size": st.sampled_from(_blocks(layers)), "r": st.just(0)},
        sometimes={
            "r": values(2, 1),
            "module_dropout": values(0.5),
            "block_share": on(),
            "init_weights": off(),
            "use_cayley_neumann": values(*BOTH),
            "num_cayley_neumann_terms": values(6),
        },
        bias="oft_only",
        agree=lambda settings: _size_or_number(settings, "oft_block_size", "r", layers),
    )


def _size_or_number(
    settings: dict[str, Any], size: str, number: str, layers: Sequence[Layer]
) -> dict[str, Any]:
    """Keep to the documentation: the size of blocks or their number, which divides the inputs."""
    count = settings.get(number)
    if size not in settings:
        return {**settings, number: count or 2}
    if count and all(inputs_of(layer) % count == 0 for layer in layers):
        return {**settings, size: 0}
    settings.pop(number, None)
    return settings


def vera(layers: Sequence[Layer]) -> Fields:
    """Draw the rank, and the projections that all adapters share."""
    del layers
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "vera_dropout": values(0.5),
            "d_initial": values(0.5),
            "save_projection": off(),
            "projection_prng_key": values(1),
            "init_weights": off(),
        },
        bias="vera_only",
        shared=("projection_prng_key", "save_projection"),
    )


def fourierft(layers: Sequence[Layer]) -> Fields:
    """Draw how many entries of the spectrum there are."""
    most = min(layer.inputs * layer.outputs for layer in layers)
    numbers = st.integers(1, most)
    return Fields(
        always={"n_frequency": numbers},
        sometimes={
            "scaling": values(10.0),
            "random_loc_seed": values(1),
            "init_weights": on(),
            "n_frequency_pattern": pattern(layers, numbers),
        },
        bias="fourier_only",
    )


def hira(layers: Sequence[Layer]) -> Fields:
    """Draw the rank and start."""
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "hira_dropout": values(0.5),
            "init_weights": st.sampled_from(("gaussian", False)),
            "rank_pattern": pattern(layers, values(*RANKS)),
        },
    )
