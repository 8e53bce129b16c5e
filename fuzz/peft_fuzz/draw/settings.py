"""Draw the settings of an adapter: JSON values, as the method's documentation allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from peft_fuzz.draw import low_rank, transforms
from peft_fuzz.draw.fields import Fields
from peft_fuzz.draw.others import OTHERS
from peft_fuzz.draw.targets import modules_to_save, now_and_then, targeted, targets
from peft_fuzz.example import Layer, Network
from peft_fuzz.methods import Method
from peft_fuzz.methods.method import config_defaults

FIELDS: Final[Mapping[str, Callable[[Sequence[Layer]], Fields]]] = {
    "adalora": low_rank.adalora,
    "boft": transforms.boft,
    "dora": low_rank.lora,
    "fourierft": transforms.fourierft,
    "hira": transforms.hira,
    "hra": transforms.hra,
    "ia3": low_rank.ia3,
    "loha": low_rank.loha,
    "lokr": low_rank.lokr,
    "lora": low_rank.lora,
    "oft": transforms.oft,
    "vera": transforms.vera,
    **OTHERS,
}


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
    fields = FIELDS[method.name](targeted(method, network, drawn))
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


def droppable(settings: Mapping[str, Any], method: Method) -> tuple[str, ...]:
    """Return the fields that may be left out while an example is made smaller."""
    needed = {"target_modules", *method.fixed, *method.needed}
    return tuple(name for name in settings if name not in needed)
