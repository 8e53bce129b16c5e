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


def _of(*values: Any) -> SearchStrategy[Any]:
    return st.sampled_from(values)


def _ranks(layers: Sequence[Layer]) -> list[int]:
    """Return ranks that all groups of the layers divide, also above a layer's size."""
    groups = lcm(*(layer.groups for layer in layers))
    return [rank * groups for rank in (2, 1, 3, 4, 9)]


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


FIELDS: Final[Mapping[str, Callable[[Sequence[Layer]], Fields]]] = {"lora": _lora, "dora": _lora}
