"""Draw the settings of an adapter: JSON values, as the method's documentation allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from peft_regress.fuzz.draw.fields import FIELDS, Fields
from peft_regress.fuzz.draw.targets import modules_to_save, now_and_then, targetable, targets
from peft_regress.fuzz.methods.method import config_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hypothesis.strategies import DrawFn

    from peft_regress.fuzz.example import Network
    from peft_regress.fuzz.methods import Method


@st.composite
def settings(
    draw: DrawFn, method: Method, network: Network, *, beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draw one adapter's settings for a network with a layer that the method can adapt.

    Only fields that the installed peft's configuration has are drawn. `beside` is what the first
    adapter has: what the documentation wants equal in all adapters of a model is taken from there.
    """
    known = config_defaults(method.config)
    layers = targetable(method, network)
    fields: Fields = FIELDS[method.name](layers)
    drawn: dict[str, Any] = {**method.fixed}
    drawn.update(draw(targets(method, network, has_field=known.__contains__)))
    for name, strategy in fields.always.items():
        if name in known:
            drawn[name] = draw(strategy)
    for name, strategy in fields.sometimes.items():
        if name in known and now_and_then(draw):
            drawn[name] = draw(strategy)
    drawn = fields.agree(drawn)
    first = beside or {}
    if fields.bias and first.get("bias", "none") == "none" and now_and_then(draw):
        drawn["bias"] = draw(st.sampled_from((fields.bias, "all")))
    if "modules_to_save" in known:
        drawn.update(draw(modules_to_save(network, drawn)))
    return drawn


def droppable(settings: Mapping[str, Any], method: Method) -> tuple[str, ...]:
    """Return the fields that may be left out while an example is made smaller."""
    needed = {"target_modules", *method.fixed, *method.needed}
    return tuple(name for name in settings if name not in needed)
