"""Other methods: no formula is carried out here; all other checks hold of them.

Their functions are nonlinear in the weights, draw random projections, or start from a decomposition
of the weight that only the library's own code repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from peft_fuzz.methods import method as m
from peft_fuzz.methods.fields import Fields, common, values, within
from peft_fuzz.methods.method import Limit, Method
from peft_fuzz.networks.network import Layer

_BIASES: Final = ("deft", "delora", "frod", "gralora", "pvera", "randlora", "tinylora", "vblora")


def _fields(layers: Sequence[Layer], config: str) -> Fields:
    """Draw what these methods have: a rank or a size that fits, dropout, and another start."""
    name = config.removesuffix("Config").lower()
    divides = st.sampled_from(common(layers))
    most = min(layer.inputs * layer.outputs for layer in layers)
    # GraLoRA's rank is a multiple of its two blocks.
    ranks = values(2, 4) if name == "gralora" else st.sampled_from(within(layers))
    dropouts = [one for one in m.config_defaults(config) if one.endswith("dropout")]
    start = m.config_defaults(config).get("init_weights")
    return Fields(
        always={
            "r": ranks,
            "effective_rank": ranks,
            "vector_length": divides,
            "group_size": values(2),
            "n_frequency": st.integers(1, most),
            "progressbar": values(False),
        },
        sometimes={
            **dict.fromkeys(dropouts, values(0.5)),
            **({"init_weights": values(False)} if start is True else {}),
            "save_projection": values(False),
        },
        bias="MiSS_only" if name == "miss" else f"{name}_only" if name in _BIASES else None,
        shared=("projection_prng_key", "save_projection"),
    )


def _method(name: str, config: str, **more: Any) -> Method:
    return Method(name, config, partial(_fields, config=config), **more)


_PROJECTIONS: Final = Limit("or greater is required|PRNG key|save_projection")
OTHERS: Final = (
    _method("vblora", "VBLoRAConfig", kinds=m.DENSE, identity=m.never),
    _method("randlora", "RandLoraConfig", kinds=m.DENSE, by_hand="added", limits=(_PROJECTIONS,)),
    _method("miss", "MissConfig"),
    _method("bone", "BoneConfig"),
    _method(
        "ln_tuning",
        m.CONFIGS["ln_tuning"],
        kinds=frozenset({"conv2d", "linear"}),
        abilities=frozenset({"merge", "unmerge"}),
        exchanges=True,
        identity=m.always,
    ),
    _method("road", "RoadConfig"),
    _method("gralora", "GraloraConfig", kinds=m.DENSE, by_hand="added"),
    _method("delora", "DeloraConfig", by_hand="added"),
    _method("waveft", "WaveFTConfig", kinds=m.DENSE),
    _method("psoft", "PsoftConfig", by_hand="added"),
    _method("tinylora", "TinyLoraConfig", kinds=m.DENSE, by_hand="added", identity=m.starts_true),
    _method("frod", "FrodConfig", kinds=m.DENSE, by_hand="added"),
    _method("peanut", "PeanutConfig"),
    _method("glora", "GloraConfig"),
    _method("osf", "OSFConfig", abilities=frozenset({"merge"})),
    _method("beft", "BeftConfig"),
    _method("unilora", "UniLoraConfig", kinds=m.DENSE, by_hand="added", identity=m.never),
    _method("pvera", "PveraConfig", kinds=m.DENSE, by_hand="added", random=m.always),
    _method("lily", "LilyConfig", abilities=frozenset({"several_active"})),
    _method(
        "deft",
        "DeftConfig",
        kinds=m.DENSE,
        by_hand="added",
        identity=lambda settings: bool(settings["init_weights"]) and not settings["para"],
    ),
)
