"""Other methods: no formula is carried out here; all other checks hold of them.

Their functions are nonlinear in the weights, draw random projections, or start from a decomposition
of the weight that only the library's own code repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from peft_fuzz.methods.fields import SHARED_PROJECTION, Fields, common, off, values, within
from peft_fuzz.methods.method import (
    CONFIGS,
    DENSE,
    Limit,
    Method,
    always,
    config_defaults,
    never,
    starts_true,
)
from peft_fuzz.networks.network import Layer

_BIASES: Final = ("deft", "delora", "frod", "gralora", "pvera", "randlora", "tinylora", "vblora")


def _fields(layers: Sequence[Layer], config: str) -> Fields:
    """Draw what these methods have: a rank or a size that fits, dropout, and another start."""
    name = config.removesuffix("Config").lower()
    divides = st.sampled_from(common(layers))
    most = min(layer.inputs * layer.outputs for layer in layers)
    ranks = st.sampled_from(within(layers))
    dropouts = [one for one in config_defaults(config) if one.endswith("dropout")]
    start = config_defaults(config).get("init_weights")
    return Fields(
        always={
            "r": ranks,
            "effective_rank": ranks,
            "vector_length": divides,
            "group_size": values(2),
            "gralora_k": values(common(layers)[0]),
            "n_frequency": st.integers(1, most),
            "progressbar": off(),
        },
        sometimes={
            **dict.fromkeys(dropouts, values(0.5)),
            **({"init_weights": off()} if start is True else {}),
            "save_projection": off(),
        },
        bias="MiSS_only" if name == "miss" else f"{name}_only" if name in _BIASES else None,
        shared=SHARED_PROJECTION,
    )


def _method(name: str, config: str, source: str, **more: Any) -> Method:
    return Method(name, config, source, partial(_fields, config=config), **more)


_PROJECTIONS: Final = Limit(
    "or greater is required|PRNG key|save_projection", "error text of peft.tuners.randlora"
)
OTHERS: Final = (
    _method("vblora", "VBLoRAConfig", "arXiv:2405.15179", kinds=DENSE, identity=never),
    _method(
        "randlora",
        "RandLoraConfig",
        "arXiv:2502.00987",
        kinds=DENSE,
        by_hand="added",
        limits=(_PROJECTIONS,),
    ),
    _method("miss", "MissConfig", "arXiv:2409.15371"),
    _method("bone", "BoneConfig", "arXiv:2409.15371"),
    _method(
        "ln_tuning",
        CONFIGS["ln_tuning"],
        "arXiv:2312.11420",
        kinds=frozenset({"conv2d", "linear"}),
        abilities=frozenset({"merge", "unmerge"}),
        exchanges=True,
        identity=always,
    ),
    _method("road", "RoadConfig", "arXiv:2409.00119"),
    _method("gralora", "GraloraConfig", "arXiv:2505.20355", kinds=DENSE, by_hand="added"),
    _method("delora", "DeloraConfig", "arXiv:2503.18225", by_hand="added"),
    _method("waveft", "WaveFTConfig", "arXiv:2505.12532", kinds=DENSE),
    _method("psoft", "PsoftConfig", "documentation of peft: PSOFT", by_hand="added"),
    _method(
        "tinylora",
        "TinyLoraConfig",
        "documentation of peft: TinyLoRA",
        kinds=DENSE,
        by_hand="added",
        identity=starts_true,
    ),
    _method("frod", "FrodConfig", "documentation of peft: FRoD", kinds=DENSE, by_hand="added"),
    _method("peanut", "PeanutConfig", "documentation of peft: PEANuT"),
    _method("glora", "GloraConfig", "arXiv:2306.07967"),
    _method("osf", "OSFConfig", "documentation of peft: OSF", abilities=frozenset({"merge"})),
    _method("beft", "BeftConfig", "documentation of peft: BEFT"),
    _method(
        "unilora",
        "UniLoraConfig",
        "documentation of peft: UniLoRA",
        kinds=DENSE,
        by_hand="added",
        identity=never,
    ),
    _method(
        "pvera",
        "PveraConfig",
        "documentation of peft: PVeRA",
        kinds=DENSE,
        by_hand="added",
        random=always,
    ),
    _method(
        "lily",
        "LilyConfig",
        "documentation of peft: Lily",
        abilities=frozenset({"several_active"}),
    ),
    _method(
        "deft",
        "DeftConfig",
        "documentation of peft: DEFT",
        kinds=DENSE,
        by_hand="added",
        identity=lambda settings: bool(settings["init_weights"]) and not settings["para"],
    ),
)
