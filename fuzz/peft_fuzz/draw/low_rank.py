"""The fields of LoRA and its kin: LoHa, LoKr, AdaLoRA, (IA)^3."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any

from hypothesis import strategies as st

from peft_fuzz.draw.fields import RANKS, Fields, Strategies, off, on, sizes_of, values
from peft_fuzz.draw.targets import pattern
from peft_fuzz.example import Layer


def _ranks(layers: Sequence[Layer]) -> list[int]:
    """Return ranks that all groups of the layers divide, also above a layer's size."""
    groups = lcm(*(layer.groups for layer in layers))
    return [rank * groups for rank in RANKS]


def _patterns(layers: Sequence[Layer], ranks: Sequence[int]) -> Strategies:
    return {
        "rank_pattern": pattern(layers, st.sampled_from(ranks)),
        "alpha_pattern": pattern(layers, values(1, 2, 16, 32)),
    }


def lora(layers: Sequence[Layer]) -> Fields:
    """Draw ranks, scales, starts and biases of LoRA and DoRA."""
    ranks = _ranks(layers)
    kinds = {layer.kind for layer in layers}
    inits: list[Any] = [False, "gaussian"]
    if kinds <= {"linear", "transposed_linear"}:
        inits += ["pissa", "pissa_niter_4", "olora", "orthogonal"]
    return Fields(
        always={"r": st.sampled_from(ranks)},
        sometimes={
            "lora_alpha": values(1, 2, 4, 16, 32),
            "lora_dropout": values(0.5, 0.1),
            "use_rslora": on(),
            "init_lora_weights": st.sampled_from(inits),
            **({} if "embedding" in kinds else {"lora_bias": on()}),
            **_patterns(layers, ranks),
        },
        bias="lora_only",
        agree=lambda settings: _lora_together(settings, min(sizes_of(layers))),
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


def loha(layers: Sequence[Layer]) -> Fields:
    """Draw LoHa, with its core tensors and dropouts."""
    return Fields(
        always={"r": values(*RANKS)},
        sometimes={
            "alpha": values(1, 2, 4, 16, 32),
            "rank_dropout": values(0.5),
            "module_dropout": values(0.5),
            "use_effective_conv2d": on(),
            "init_weights": off(),
            **_patterns(layers, RANKS),
        },
    )


def lokr(layers: Sequence[Layer]) -> Fields:
    """Draw LoKr: what LoHa has, and how the factors are made."""
    fields = loha(layers)
    more = {
        "init_weights": st.sampled_from(("lycoris", False)),
        "decompose_both": on(),
        "decompose_factor": values(2, 3),
        "rank_dropout_scale": on(),
    }
    return Fields(always=fields.always, sometimes={**fields.sometimes, **more})


def adalora(layers: Sequence[Layer]) -> Fields:
    """Draw a schedule that prunes after the steps of a life, or rarely within them."""
    del layers
    return Fields(
        always={
            "init_r": values(*RANKS),
            "target_r": st.just(1),
            "tinit": st.just(50),
            "tfinal": st.just(10),
            "total_step": st.just(100),
        },
        sometimes={
            "lora_alpha": values(1, 2, 4, 16, 32),
            "lora_dropout": values(0.5),
            "init_lora_weights": off(),
            "orth_reg_weight": values(0.1),
        },
        bias="lora_only",
    )


def ia3(layers: Sequence[Layer]) -> Fields:
    """Draw which layers have their inputs scaled."""
    names = [layer.name for layer in layers]
    return Fields(
        always={"feedforward_modules": st.lists(st.sampled_from(names), unique=True)},
        sometimes={"init_ia3_weights": off()},
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
