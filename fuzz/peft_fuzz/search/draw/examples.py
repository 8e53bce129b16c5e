"""Draw examples: a method, a network, one or two adapters, and a life.

A life has acts in any order, changed or left out where they make no sense in a state. Many lives
start with an opening: acts that a defect often needs one after another, which chance seldom draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec.structs import replace

from peft_fuzz.acts import (
    ACTS,
    Act,
    Activate,
    Add,
    Delete,
    Disable,
    Enable,
    Fill,
    HotSwap,
    LoadBeside,
    Merge,
    Mixed,
    Mode,
    SaveLoad,
    Scale,
    Train,
    Unload,
    Unmerge,
    Weighted,
)
from peft_fuzz.acts.act import COPIED, MIXTURE, UNKNOWN, Choices, follow, is_legal
from peft_fuzz.acts.hot_swap import can_swap
from peft_fuzz.acts.mixed import BASE
from peft_fuzz.example import Example
from peft_fuzz.methods import METHODS, Method
from peft_fuzz.networks.build import runs
from peft_fuzz.networks.network import AdaptedNetwork, Adapter, Kind
from peft_fuzz.oracle.plan import Plan
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
LONGEST: Final = 14
SHORT: Final = 3
_OFTEN: Final = 3

Opening = tuple[Act, ...]


def lives(on: AdaptedNetwork, method: Method) -> SearchStrategy[tuple[Act, ...]]:
    """Draw a life of a network with adapters."""
    return _drawn(Choices.of(on, method)).map(lambda acts: allowed(on, method, acts))


def allowed(on: AdaptedNetwork, method: Method, acts: Sequence[Act]) -> tuple[Act, ...]:
    """Return acts that make sense one after another, made of the given ones."""
    plan, kept = Plan.start(on, method.abilities), []
    for drawn in acts:
        act = drawn if plan.ended else drawn.fitted(plan)
        if is_legal(plan, act):
            kept.append(act)
            plan = follow(plan, act)
    return tuple(kept)  # type: ignore[arg-type]


@cache
def _drawn(choices: Choices) -> SearchStrategy[list[Act]]:
    """Draw an opening and acts; short lives come first, so that shrinking ends with them."""
    act: SearchStrategy[Act] = st.one_of(*(one for each in ACTS for one in each.drawn(choices)))
    rest = st.one_of(
        st.lists(act, max_size=SHORT), st.lists(act, min_size=SHORT + 1, max_size=LONGEST)
    )
    first = st.sampled_from([(), (Fill(),), (Fill(),), *openings(choices)])
    return st.builds(lambda opening, more: [*opening, *more], first, rest)


def openings(choices: Choices) -> list[Opening]:
    """Return the openings of a life; the plainest come first.

    Those with copies come only, and more often, where an adapter has some; those of an ability
    only where the method has it.
    """
    found = [*_alone(choices.names[0], choices.batch), *_swaps(choices)]
    if choices.with_copies:
        found += _OFTEN * _copies_alone(choices)
    if len(choices.names) > 1:
        found += _of_two(choices)
        if choices.with_copies:
            found += _OFTEN * _copies_of_two(choices)
        if "weighted" in choices.abilities:
            found += _combined(choices)
    return found


def _alone(first: str, batch: int) -> list[Opening]:
    fill, disable = Fill(), Disable()
    return [
        (Train(),),
        (fill, Merge(safe=True, broken=True)),
        (fill, Merge(), Delete(adapter=first)),
        (disable, Train()),
        (fill, Scale(adapter=first, scale=1.0)),
        (Train(), SaveLoad(), Train()),
        (Train(), Merge(), Unmerge(), Train(keep_optimizer=True)),
        (Train(), Merge(), Unmerge(), Fill(), Train(keep_optimizer=True)),
        (Mode(training=True), fill, Merge(), Unmerge()),
        (fill, LoadBeside(adapter=first, name=COPIED)),
        (fill, Mixed(adapters=(UNKNOWN,) * batch)),
        (fill, Add(adapter=first)),
    ]


def _swaps(choices: Choices) -> list[Opening]:
    if "hot_swap" not in choices.abilities or not can_swap():
        return []
    first, rank = choices.names[0], choices.swap_rank
    return [
        (Fill(), HotSwap(adapter=first, target_rank=rank)),
        (Fill(), SaveLoad(), HotSwap(adapter=first, target_rank=rank)),
        (Fill(), Merge(), HotSwap(adapter=first)),
    ]


def _both_filled(choices: Choices) -> Opening:
    """Return the acts after which both adapters are there and filled, and the second is active."""
    last = choices.names[-1]
    return (Fill(), Add(adapter=last), Activate(adapters=(last,)), Fill())


def _of_two(choices: Choices) -> list[Opening]:
    first, last = choices.names[0], choices.names[-1]
    second, both = Add(adapter=last), Activate(adapters=(first, last))
    there, turns = _both_filled(choices), (first, last) * choices.batch
    return [
        (second,),
        there,
        (second, both, Fill()),
        (*there, both, Merge(adapters=(first,)), Merge(adapters=(last,))),
        (*there, Activate(adapters=(first,))),
        (*there, Mixed(adapters=turns[: choices.batch])),
        (*there, Delete(adapter=last)),
    ]


def _copies_alone(choices: Choices) -> list[Opening]:
    first, fill = choices.names[0], Fill()
    found: list[Opening] = [
        (fill, SaveLoad()),
        (Train(), Disable(), Enable(), Train()),
        (fill, Unload()),
    ]
    if "mixed" in choices.abilities:
        found.append((fill, Mixed(adapters=(first, BASE) * (choices.batch // 2))))
    return found


def _copies_of_two(choices: Choices) -> list[Opening]:
    first, last = choices.names[0], choices.names[-1]
    there, back = _both_filled(choices), Activate(adapters=(first,))
    found: list[Opening] = [
        (*there, back, Activate(adapters=(last,))),
        (*there, Activate(adapters=(first,), through_tuner=True)),
        (*there, Delete(adapter=first)),
        (*there, Delete(adapter=last)),
        (*there, Unload()),
        (*there, back, Unload()),
        (*there, SaveLoad()),
    ]
    if "several_active" in choices.abilities:
        found.append((*there, Activate(adapters=(first, last))))
    return found


def _combined(choices: Choices) -> list[Opening]:
    first, last = choices.names[0], choices.names[-1]
    there = _both_filled(choices)
    kinds: list[tuple[str, tuple[float, float], float | None]] = [
        ("cat", (1.0, -0.5), None),
        ("cat", (0.5, 1.0), None),
        ("linear", (-1.0, 0.5), None),
        ("dare_linear", (1.0, 0.5), 0.5),
        ("ties", (1.0, -0.5), 0.5),
    ]
    return [
        (
            *there,
            Weighted(
                adapters=(first, last),
                weights=weights,
                combination=kind,
                name=MIXTURE,
                density=density,
            ),
            Activate(adapters=(MIXTURE,)),
        )
        for kind, weights, density in kinds
    ]


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
        network=network, method=method.name, adapters=tuple(adapters), autocast=draw(AUTOCAST)
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
