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

from peft_fuzz import acts
from peft_fuzz.acts.act import COPIED, Choices, follow, is_legal
from peft_fuzz.acts.hot_swap import can_swap
from peft_fuzz.example import Example
from peft_fuzz.methods import METHODS, Method
from peft_fuzz.networks.build import runs
from peft_fuzz.networks.network import AdaptedNetwork, Adapter
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
AUTOCAST: Final = st.sampled_from((True, True, False))
LONGEST: Final = 14
SHORT: Final = 3
_OFTEN: Final = 3

Opening = tuple[acts.Act, ...]


def lives(on: AdaptedNetwork, method: Method) -> SearchStrategy[tuple[acts.Act, ...]]:
    """Draw a life of a network with adapters."""
    return _drawn(Choices.of(on, method)).map(lambda drawn: allowed(on, method, drawn))


def allowed(on: AdaptedNetwork, method: Method, drawn: Sequence[acts.Act]) -> tuple[acts.Act, ...]:
    """Return acts that make sense one after another, made of the given ones."""
    plan, kept = Plan.start(on, method.abilities), []
    for one in drawn:
        act = one if plan.ended else one.fitted(plan)
        if is_legal(plan, act):
            kept.append(act)
            plan = follow(plan, act)
    return tuple(kept)  # type: ignore[arg-type]


@cache
def _drawn(choices: Choices) -> SearchStrategy[list[acts.Act]]:
    """Draw an opening and acts; short lives come first, so that shrinking ends with them."""
    act: SearchStrategy[acts.Act] = st.one_of(
        *(one for each in acts.ACTS for one in each.drawn(choices))
    )
    rest = st.one_of(
        st.lists(act, max_size=SHORT), st.lists(act, min_size=SHORT + 1, max_size=LONGEST)
    )
    first = st.sampled_from([(), (acts.Fill(),), (acts.Fill(),), *openings(choices)])
    return st.builds(lambda opening, more: [*opening, *more], first, rest)


def openings(choices: Choices) -> list[Opening]:
    """Return the openings of a life; the plainest come first."""
    found = [*_alone(choices.names[0]), *_swaps(choices)]
    if choices.with_copies:
        found += _OFTEN * _copies_alone()
    if len(choices.names) > 1:
        found += _of_two(choices)
        if choices.with_copies:
            found += _OFTEN * _copies_of_two(choices)
    return found


def _alone(first: str) -> list[Opening]:
    fill, disable = acts.Fill(), acts.Disable()
    return [
        (acts.Train(),),
        (fill, acts.Merge(safe=True, broken=True)),
        (fill, acts.Merge(), acts.Delete(adapter=first)),
        (disable, acts.Train()),
        (acts.Train(), acts.SaveLoad(), acts.Train()),
        (acts.Train(), acts.Merge(), acts.Unmerge(), acts.Train(keep_optimizer=True)),
        (acts.Train(), acts.Merge(), acts.Unmerge(), acts.Fill(), acts.Train(keep_optimizer=True)),
        (acts.Mode(training=True), fill, acts.Merge(), acts.Unmerge()),
        (fill, acts.LoadBeside(adapter=first, name=COPIED)),
        (fill, acts.Add(adapter=first)),
    ]


def _swaps(choices: Choices) -> list[Opening]:
    if "hot_swap" not in choices.abilities or not can_swap():
        return []
    first, rank = choices.names[0], choices.swap_rank
    return [
        (acts.Fill(), acts.HotSwap(adapter=first, target_rank=rank)),
        (acts.Fill(), acts.SaveLoad(), acts.HotSwap(adapter=first, target_rank=rank)),
        (acts.Fill(), acts.Merge(), acts.HotSwap(adapter=first)),
    ]


def _both_filled(choices: Choices) -> Opening:
    """Return the acts after which both adapters are there and filled, and the second is active."""
    last = choices.names[-1]
    return (acts.Fill(), acts.Add(adapter=last), acts.Activate(adapters=(last,)), acts.Fill())


def _of_two(choices: Choices) -> list[Opening]:
    first, last = choices.names[0], choices.names[-1]
    second, both = acts.Add(adapter=last), acts.Activate(adapters=(first, last))
    there = _both_filled(choices)
    return [
        (second,),
        there,
        (second, both, acts.Fill()),
        (*there, both, acts.Merge(adapters=(first,)), acts.Merge(adapters=(last,))),
        (*there, acts.Activate(adapters=(first,))),
        (*there, acts.Delete(adapter=last)),
    ]


def _copies_alone() -> list[Opening]:
    return [
        (acts.Fill(), acts.SaveLoad()),
        (acts.Train(), acts.Disable(), acts.Enable(), acts.Train()),
        (acts.Fill(), acts.Unload()),
    ]


def _copies_of_two(choices: Choices) -> list[Opening]:
    first, last = choices.names[0], choices.names[-1]
    there, back = _both_filled(choices), acts.Activate(adapters=(first,))
    found: list[Opening] = [
        (*there, back, acts.Activate(adapters=(last,))),
        (*there, acts.Delete(adapter=first)),
        (*there, acts.Delete(adapter=last)),
        (*there, acts.Unload()),
        (*there, back, acts.Unload()),
        (*there, acts.SaveLoad()),
    ]
    if "several_active" in choices.abilities:
        found.append((*there, acts.Activate(adapters=(first, last))))
    return found


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
    names = adapter_names(wanted, drawn)
    adapters = [Adapter(name=name, settings=each) for name, each in zip(names, drawn, strict=False)]
    example = Example(
        network=network, method=method.name, adapters=tuple(adapters), autocast=draw(AUTOCAST)
    )
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
