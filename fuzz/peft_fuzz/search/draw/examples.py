"""Draw examples: a method, a network, one or two adapters, and a life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from msgspec.structs import replace

from peft_fuzz.example import Example
from peft_fuzz.methods import METHODS, Method
from peft_fuzz.networks.build import runs
from peft_fuzz.networks.network import Adapter, Kind
from peft_fuzz.search.draw.lives import lives
from peft_fuzz.search.draw.networks import networks
from peft_fuzz.search.draw.settings import settings

NAMES: Final = st.sampled_from(
    (("default", "other"), ("foo", "foobar"), ("foobar", "foo"), ("a", "b"), ("head", "lin0"))
)
"""Pairs of names; some are a layer's, some begin like the other."""
FREE: Final = ("one", "two")
"""Names that no layer has, for adapters that copy one: a copy must not have the adapter's name, as
peft says (`_set_trainable` in utils/other.py)."""
TWO: Final = st.booleans()
RARE: Final = st.integers(0, 19)
STRAY, UNMEANT = 19, 18
"""Draws of `RARE`: an adapter that matches no layer; one on layers it is not meant for."""
AUTOCAST: Final = st.sampled_from((True, True, False))


@st.composite
def examples(draw: DrawFn, methods: Sequence[str]) -> Example:
    """Draw an example of one of the methods."""
    method = METHODS[draw(st.sampled_from(list(methods)))]
    network = draw(networks(method.kinds))
    assume(runs(network))
    wanted = draw(NAMES)
    drawn = [draw(settings(method, network))]
    if draw(TWO):
        drawn.append(draw(settings(method, network, beside=drawn[0])))
    first = drawn[0]
    names = adapter_names(wanted, drawn)
    adapters = [Adapter(name=name, settings=each) for name, each in zip(names, drawn, strict=False)]
    rare = draw(RARE)
    if rare == STRAY:
        adapters.append(Adapter(name="stray", settings=_elsewhere(first, "nowhere")))
    example = Example(
        network=network,
        method=method.name,
        adapters=tuple(adapters),
        autocast=draw(AUTOCAST),
    )
    if rare == UNMEANT:
        return _unmeant(draw, example, method)
    return replace(example, acts=draw(lives(example, method)))


def adapter_names(wanted: tuple[str, str], drawn: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the names that are wanted for adapters, or free ones if a copy has one of them."""
    copied = {
        part
        for settings in drawn
        for name in settings.get("modules_to_save") or ()
        for part in name.split(".")
    }
    return FREE if copied & {*wanted} else wanted


def _elsewhere(settings: dict[str, object], name: str) -> dict[str, object]:
    """Return settings with another target."""
    left = {"exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"}
    kept = {key: value for key, value in settings.items() if key not in left}
    return {**kept, "target_modules": [name]}


def _unmeant(draw: DrawFn, example: Example, method: Method) -> Example:
    """Return an example that puts an adapter on a layer that its method does not name."""
    kinds: tuple[Kind, ...] = ("conv2d", "conv3d", "embedding")
    others = [kind for kind in kinds if kind not in method.kinds]
    assume(others)
    network = draw(networks(others))
    assume(runs(network))
    first = example.adapters[0]
    settings = _elsewhere(dict(first.settings), network.layers[0].name)
    return replace(
        example, network=network, adapters=(Adapter(name=first.name, settings=settings),)
    )
