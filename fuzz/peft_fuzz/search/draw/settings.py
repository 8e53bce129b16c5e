"""Draw the settings of an adapter: JSON values, as the method's documentation allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from peft_fuzz.methods import Method
from peft_fuzz.methods.method import config_defaults
from peft_fuzz.networks.network import Layer, Network

RARELY = 5
"""One of so many: how often an option is drawn that most adapters leave as it is."""


def now_and_then(draw: DrawFn, one_in: int = RARELY) -> bool:
    """Draw whether to leave the simple way; shrinks to the simple way."""
    return draw(st.integers(0, one_in - 1)) == one_in - 1


def targetable(method: Method, network: Network) -> list[Layer]:
    """Return the layers that a method can adapt: each module once, by its first name."""
    return [
        layer for layer in network.layers if layer.kind in method.kinds and layer.same_as is None
    ]


@st.composite
def targets(draw: DrawFn, method: Method, network: Network) -> list[str] | str:
    """Draw what is adapted: at least one layer, by name, by the last part, or by a pattern."""
    choice = targetable(method, network)
    chosen = [layer.name for layer in choice if len(choice) == 1 or not now_and_then(draw, 3)]
    names = chosen or [choice[0].name]
    last = sorted({name.rpartition(".")[2] for name in names})
    others = {layer.name.rpartition(".")[2] for layer in network.layers if layer.name not in names}
    escaped = "|".join(re.escape(name) for name in names)
    ways: list[list[str] | str] = [names, escaped, f"(.*\\.)?({escaped})"]
    ways += [] if others & {*last} else [last]
    return draw(st.sampled_from(ways)) if now_and_then(draw, 3) else names


@st.composite
def modules_to_save(
    draw: DrawFn, network: Network, settings: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Draw layers that are trained as copies, among those that no adapter is put on.

    Not a module with two names: whether both get the copy is not documented.
    """
    named = settings.get("target_modules", [])
    shared = {layer.same_as for layer in network.layers}
    kept = [
        layer.name
        for layer in network.layers
        if layer.same_as is None and layer.name not in shared and not _is_named(layer.name, named)
    ]
    if not kept or not now_and_then(draw, 2):
        return {}
    return {"modules_to_save": draw(st.lists(st.sampled_from(kept), min_size=1, unique=True))}


def _is_named(name: str, named: list[str] | str) -> bool:
    if isinstance(named, str):
        return re.fullmatch(named, name) is not None
    return any(name == each or name.endswith("." + each) for each in named)


@st.composite
def settings(
    draw: DrawFn, method: Method, network: Network, *, beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draw one adapter's settings for a network with a layer that the method can adapt."""
    known = config_defaults(method.config)
    drawn: dict[str, Any] = {**method.fixed, "target_modules": draw(targets(method, network))}
    named = [
        layer
        for layer in targetable(method, network)
        if _is_named(layer.name, drawn["target_modules"])
    ]
    fields = method.draws(named)
    for name, strategy in fields.always.items():
        if name in known:
            drawn[name] = draw(strategy)
    for name, strategy in fields.sometimes.items():
        if name in known and now_and_then(draw):
            drawn[name] = draw(strategy)
    drawn = fields.agree(drawn)
    if beside is not None:
        for name in fields.shared:
            drawn.pop(name, None)
            if name in beside:
                drawn[name] = beside[name]
    first = beside or {}
    if fields.bias and first.get("bias", "none") == "none" and now_and_then(draw):
        drawn["bias"] = draw(st.sampled_from((fields.bias, "all")))
    if "modules_to_save" in known:
        drawn.update(draw(modules_to_save(network, drawn)))
    return drawn
