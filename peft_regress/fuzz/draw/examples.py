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

ADAPTER_NAMES: Final = (("default", "other"), ("foo", "foobar"), ("foobar", "foo"), ("a", "b"))
NAMES: Final = st.sampled_from(ADAPTER_NAMES)
TWO: Final = st.booleans()
STRAY: Final = st.integers(0, 15).map(lambda number: number == 15)  # noqa: PLR2004
"""Now and then an adapter that matches no layer, which must be refused."""
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
    if draw(STRAY):
        stray = {**first, "target_modules": ["nowhere"], "modules_to_save": None}
        adapters.append(e.Adapter(name="stray", settings=stray))
    example = e.Example(
        network=network,
        method=method.name,
        adapters=tuple(adapters),
        autocast=draw(AUTOCAST),
    )
    return replace(example, acts=draw(lives(example, method)))
