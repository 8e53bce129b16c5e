"""The fields of each method's configuration that are drawn, and their values.

The first value of each is the simplest, which hypothesis shrinks to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hypothesis import strategies as st

from peft_regress.fuzz.draw.targets import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hypothesis.strategies import SearchStrategy

    from peft_regress.fuzz.example import Layer

Strategies: TypeAlias = "dict[str, SearchStrategy[Any]]"


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What is drawn for an adapter.

    Attributes:
        always: Fields that every adapter states.
        sometimes: Fields that few adapters state; the others keep the default.
        bias: The value of `bias` that trains the adapted layers' biases, if there is the field.
        agree: Takes out what the documentation does not allow together.

    """

    always: Strategies = field(default_factory=dict)
    sometimes: Strategies = field(default_factory=dict)
    bias: str | None = None
    agree: Callable[[dict[str, Any]], dict[str, Any]] = dict


RANKS: Final = (2, 1, 3, 4, 9)


def _of(*values: Any) -> SearchStrategy[Any]:
    return st.sampled_from(values)


def _ranks(layers: Sequence[Layer]) -> list[int]:
    """Return ranks that all groups of the layers divide, also above a layer's size."""
    groups = lcm(*(layer.groups for layer in layers))
    return [rank * groups for rank in RANKS]


def _patterns(layers: Sequence[Layer], ranks: Sequence[int]) -> Strategies:
    return {
        "rank_pattern": pattern(layers, st.sampled_from(ranks)),
        "alpha_pattern": pattern(layers, _of(1, 2, 16, 32)),
    }


def _lora(layers: Sequence[Layer]) -> Fields:
    ranks = _ranks(layers)
    kinds = {layer.kind for layer in layers}
    inits: list[Any] = [False, "gaussian"]
    if kinds <= {"linear", "transposed_linear"}:
        inits += ["pissa", "pissa_niter_4", "olora", "orthogonal"]
    return Fields(
        always={"r": st.sampled_from(ranks)},
        sometimes={
            "lora_alpha": _of(1, 2, 4, 16, 32),
            "lora_dropout": _of(0.5, 0.1),
            "use_rslora": st.just(value=True),
            "init_lora_weights": st.sampled_from(inits),
            **({} if "embedding" in kinds else {"lora_bias": st.just(value=True)}),
            **_patterns(layers, ranks),
        },
        bias="lora_only",
        agree=lambda settings: _lora_together(settings, min(_sizes(layers))),
    )


def _lora_together(settings: dict[str, Any], size: int) -> dict[str, Any]:
    """Keep to the documentation: lora_bias has plain starts only, and no DoRA.

    A start from the base weight has no more directions than the weight; orthogonal ones come in
    pairs.
    """
    start = settings.get("init_lora_weights", True)
    ranks = (settings["r"], *settings.get("rank_pattern", {}).values())
    if isinstance(start, str):
        odd = start == "orthogonal" and any(rank % 2 for rank in ranks)
        if odd or (start != "gaussian" and max(ranks) > size) or settings.get("lora_bias"):
            del settings["init_lora_weights"]
    if settings.get("use_dora"):
        settings.pop("lora_bias", None)
    return settings


def _sizes(layers: Sequence[Layer]) -> list[int]:
    return [size for layer in layers for size in (layer.inputs, layer.outputs)]


def _loha(layers: Sequence[Layer]) -> Fields:
    return Fields(
        always={"r": _of(*RANKS)},
        sometimes={
            "alpha": _of(1, 2, 4, 16, 32),
            "rank_dropout": _of(0.5),
            "module_dropout": _of(0.5),
            "use_effective_conv2d": st.just(value=True),
            "init_weights": st.just(value=False),
            **_patterns(layers, RANKS),
        },
    )


def _lokr(layers: Sequence[Layer]) -> Fields:
    fields = _loha(layers)
    more = {
        "init_weights": st.sampled_from(("lycoris", False)),
        "decompose_both": st.just(value=True),
        "decompose_factor": _of(2, 3),
        "rank_dropout_scale": st.just(value=True),
    }
    return Fields(always=fields.always, sometimes={**fields.sometimes, **more})


def _adalora(layers: Sequence[Layer]) -> Fields:
    """Draw a schedule that prunes after the steps of a life, or rarely within them."""
    del layers
    return Fields(
        always={
            "init_r": _of(*RANKS),
            "target_r": st.just(1),
            "tinit": st.just(50),
            "tfinal": st.just(10),
            "total_step": st.just(100),
        },
        sometimes={
            "lora_alpha": _of(1, 2, 4, 16, 32),
            "lora_dropout": _of(0.5),
            "init_lora_weights": st.just(value=False),
            "orth_reg_weight": _of(0.1),
        },
        bias="lora_only",
    )


def _ia3(layers: Sequence[Layer]) -> Fields:
    names = [layer.name for layer in layers]
    return Fields(
        always={"feedforward_modules": st.lists(st.sampled_from(names), unique=True)},
        sometimes={"init_ia3_weights": st.just(value=False)},
        agree=_ia3_together,
    )


def _ia3_together(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep to the documentation: feed-forward modules are among the targets."""
    targets = settings["target_modules"]
    if isinstance(targets, list):
        settings["feedforward_modules"] = [
            name for name in settings["feedforward_modules"] if name in targets
        ]
    return settings


FIELDS: Final[Mapping[str, Callable[[Sequence[Layer]], Fields]]] = {
    "adalora": _adalora,
    "dora": _lora,
    "ia3": _ia3,
    "loha": _loha,
    "lokr": _lokr,
    "lora": _lora,
}
