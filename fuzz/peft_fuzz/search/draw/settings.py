"""Draw the settings of an adapter: JSON values, as the method's documentation allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

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


def targeted(method: Method, network: Network, settings: Mapping[str, Any]) -> list[Layer]:
    """Return the layers that drawn settings name; all that can be named if they name none."""
    all_layers = targetable(method, network)
    named = [
        layer
        for layer in all_layers
        if _is_named(layer.name, settings["target_modules"])
        and not _is_named(layer.name, settings.get("exclude_modules", []))
    ]
    return named or all_layers


@st.composite
def targets(
    draw: DrawFn, method: Method, network: Network, *, has_field: Callable[[str], bool]
) -> dict[str, Any]:
    """Draw the fields that say what is adapted: at least one layer that the method can adapt."""
    choice = targetable(method, network)
    chosen = [layer.name for layer in choice if len(choice) == 1 or not now_and_then(draw, 3)]
    names = chosen or [choice[0].name]
    others = [layer.name for layer in network.layers if layer.name not in names]
    settings: dict[str, Any] = {"target_modules": names}
    if not now_and_then(draw, 3):
        return settings
    way = draw(st.sampled_from(("regex", "last", "exclude", "transform")))
    if way == "regex":
        settings["target_modules"] = draw(_regex(names))
    elif way == "last":
        last = sorted({name.rpartition(".")[2] for name in names})
        if not any(other.rpartition(".")[2] in last for other in others):
            settings["target_modules"] = last
    elif way == "exclude" and has_field("exclude_modules") and len(names) > 1:
        settings["exclude_modules"] = draw(_list_or_regex(names[1:]))
    elif way == "transform" and has_field("layers_to_transform"):
        settings.update(draw(_layers_to_transform(names)))
    return settings


def _regex(names: Sequence[str]) -> SearchStrategy[str]:
    """Draw a regular expression that matches exactly these paths."""
    escaped = [re.escape(name) for name in names]
    return st.sampled_from(("|".join(escaped), f"(.*\\.)?({'|'.join(escaped)})"))


def _list_or_regex(names: Sequence[str]) -> SearchStrategy[list[str] | str]:
    return st.one_of(st.just(list(names)), _regex(names))


@st.composite
def _layers_to_transform(draw: DrawFn, names: Sequence[str]) -> dict[str, Any]:
    """Draw an index of repeated blocks (`blocks.0.lin`), for names that have one.

    `target_modules` is a list then: a regular expression excludes this field.
    """
    found = [re.fullmatch(r"(?:.*\.)?([A-Za-z_]+)\.(\d+)\.([^.]+)", name) for name in names]
    matches = [match for match in found if match is not None]
    if not matches or len(matches) != len(names):
        return {}
    indices = sorted({int(match.group(2)) for match in matches})
    kept = draw(st.sampled_from(indices))
    settings: dict[str, Any] = {
        "target_modules": sorted({match.group(3) for match in matches}),
        "layers_to_transform": draw(st.sampled_from((kept, [kept]))),
    }
    patterns = sorted({match.group(1) for match in matches})
    if len(patterns) > 1 or draw(st.booleans()):
        settings["layers_pattern"] = patterns[0] if len(patterns) == 1 else patterns
    return settings


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
    """Draw one adapter's settings for a network with a layer that the method can adapt.

    Only fields that the installed peft's configuration has are drawn. `beside` is what the first
    adapter has: what the documentation wants equal in all adapters of a model is taken from there.
    """
    known = config_defaults(method.config)
    drawn: dict[str, Any] = {**method.fixed}
    drawn.update(draw(targets(method, network, has_field=known.__contains__)))
    fields = method.draws(targeted(method, network, drawn))
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
