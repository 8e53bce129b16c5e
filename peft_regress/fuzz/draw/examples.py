"""Draw examples: a method, a network, one or two adapters, and a life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import assume
from hypothesis import strategies as st
from msgspec.structs import replace

from peft_regress.fuzz import example as e
from peft_regress.fuzz.draw.lives import lives
from peft_regress.fuzz.draw.networks import networks, runs
from peft_regress.fuzz.draw.settings import settings
from peft_regress.fuzz.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import DrawFn

    from peft_regress.fuzz.methods import Method

NAMES: Final = st.sampled_from(
    (("default", "other"), ("foo", "foobar"), ("foobar", "foo"), ("a", "b"), ("head", "lin0"))
)
"""Pairs of names; some are a layer's, some begin like the other."""
TWO: Final = st.booleans()
RARE: Final = st.integers(0, 19)
STRAY, UNMEANT = 19, 18
"""Draws of `RARE`: an adapter that matches no layer; one on layers it is not meant for."""
AUTOCAST: Final = st.sampled_from((True, True, False))


@st.composite
def examples(draw: DrawFn, methods: Sequence[str]) -> e.Example:
    """Draw an example of one of the methods."""
    method = METHODS[draw(st.sampled_from(list(methods)))]
    network = draw(networks(method.kinds))
    assume(runs(network))
    names = draw(NAMES)
    first = draw(settings(method, network))
    adapters = [e.Adapter(name=names[0], settings=first)]
    if draw(TWO):
        second = draw(settings(method, network, beside=first))
        adapters.append(e.Adapter(name=names[1], settings=second))
    rare = draw(RARE)
    if rare == STRAY:
        adapters.append(e.Adapter(name="stray", settings=_elsewhere(first, "nowhere")))
    example = e.Example(
        network=network,
        method=method.name,
        adapters=tuple(adapters),
        autocast=draw(AUTOCAST),
    )
    if rare == UNMEANT:
        return _unmeant(draw, example, method)
    return replace(example, acts=draw(lives(example, method)))


def _elsewhere(settings: dict[str, object], name: str) -> dict[str, object]:
    """Return settings with another target."""
    left = {"exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"}
    kept = {key: value for key, value in settings.items() if key not in left}
    return {**kept, "target_modules": [name]}


def _unmeant(draw: DrawFn, example: e.Example, method: Method) -> e.Example:
    """Return an example that puts an adapter on a layer that its method does not name."""
    kinds: tuple[e.Kind, ...] = ("conv2d", "conv3d", "embedding")
    others = [kind for kind in kinds if kind not in method.kinds]
    assume(others)
    network = draw(networks(others))
    assume(runs(network))
    first = example.adapters[0]
    settings = _elsewhere(dict(first.settings), network.layers[0].name)
    return replace(
        example, network=network, adapters=(e.Adapter(name=first.name, settings=settings),)
    )
