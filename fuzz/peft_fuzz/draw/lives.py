"""Draw lives: acts in any order, changed or left out where they make no sense in a state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from peft_fuzz import example as e
from peft_fuzz.draw.openings import (
    COPIED,
    MIXTURE,
    SWAP_RANK,
    UNKNOWN,
    Setting,
    can_swap,
    openings,
)
from peft_fuzz.life.legal import legal
from peft_fuzz.life.plan import Plan, after, refusal
from peft_fuzz.methods import Method

LONGEST: Final = 14
SHORT: Final = 3
WEIGHTS: Final = (1.0, 0.5, -1.0, -0.5)
PRUNING: Final = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Combinations that leave entries out, as many as `density` says; each has an SVD form, too."""
COMBINATIONS: Final = ("cat", "cat", "svd", "linear", *PRUNING, *(f"{one}_svd" for one in PRUNING))


def lives(example: e.Example, method: Method) -> SearchStrategy[tuple[e.Act, ...]]:
    """Draw a life of an example without acts."""
    drawn = _drawn(Setting.of(example, method))
    return drawn.map(lambda acts: allowed(example, method, acts))


def allowed(example: e.Example, method: Method, acts: Sequence[e.Act]) -> tuple[e.Act, ...]:
    """Return acts that make sense one after another, made of the given ones."""
    plan, kept = Plan.start(example, method.abilities), []
    for drawn in acts:
        act = _fitting(plan, drawn)
        if not legal(plan, act):
            continue
        kept.append(act)
        if refusal(plan, act) is None:
            plan = after(plan, act)
    return tuple(kept)


def _fitting(plan: Plan, act: e.Act) -> e.Act:  # noqa: C901, PLR0911, PLR0912
    """Return an act as it makes sense in a state: with adapters that are there."""
    there = [*plan.settings]
    if not there:
        return act
    match act:
        case e.Add(adapter=name) if name in there:
            left = [each.name for each in plan.example.adapters if each.name not in there]
            return e.Add(adapter=left[0]) if left else act
        case e.Activate(adapters=names):
            return replace(act, adapters=_present(names, there, plan))
        case e.Merge(adapters=names, broken=False):
            if {*plan.active} <= {*plan.merged}:
                return e.Unmerge()
            return act if names is None else replace(act, adapters=_present(names, there, plan))
        case e.Unmerge() if not plan.merged:
            return e.Merge()
        case e.Disable() | e.Fill() | e.Train() if not plan.enabled:
            return e.Enable()
        case e.Fill() | e.Train() if plan.merged:
            return e.Unmerge()
        case e.Mode(training=training) if training == plan.training:
            return e.Mode(training=not training)
        case e.Mixed(adapters=names):
            known = {*there, "__base__", UNKNOWN}
            return replace(act, adapters=tuple(n if n in known else there[-1] for n in names))
        case e.Delete(adapter=name) | e.HotSwap(adapter=name) | e.LoadBeside(adapter=name):
            return act if name in there else replace(act, adapter=there[-1])
        case e.Weighted(adapters=names) if len(names) > 1 and len(there) == 1:
            left = [each.name for each in plan.example.adapters if each.name not in there]
            return e.Add(adapter=left[0]) if left else act
        case e.Weighted(adapters=names, weights=weights):
            present = tuple(name for name in names if name in there) or (there[0],)
            return replace(act, adapters=present, weights=weights[: len(present)])
    return act


def _present(names: Sequence[str], there: Sequence[str], plan: Plan) -> tuple[str, ...]:
    present = tuple(name for name in names if name in there) or (there[-1],)
    return present if "several_active" in plan.abilities else present[:1]


@cache
def _drawn(setting: Setting) -> SearchStrategy[list[e.Act]]:
    """Draw an opening and acts; short lives come first, so that shrinking ends with them."""
    act = _acts(setting)
    rest = st.one_of(
        st.lists(act, max_size=SHORT), st.lists(act, min_size=SHORT + 1, max_size=LONGEST)
    )
    first = st.sampled_from([(), (e.Fill(),), (e.Fill(),), *openings(setting)])
    return st.builds(lambda opening, more: [*opening, *more], first, rest)


def _acts(setting: Setting) -> SearchStrategy[e.Act]:
    names, batch = setting.names, setting.batch
    more = [*names, COPIED, MIXTURE]
    one, every = st.sampled_from(names), st.sampled_from(more)
    some = st.lists(every, min_size=1, max_size=2, unique=True).map(tuple)
    item = st.sampled_from([*names, *more, *names, "__base__", UNKNOWN])
    acts: list[SearchStrategy[e.Act]] = [
        st.builds(e.Fill, seed=st.integers(0, 3)),
        st.builds(e.Merge, adapters=st.none(), safe=st.booleans()),
        st.just(e.Unmerge()),
        st.builds(e.Train, steps=st.integers(1, 2), keep_optimizer=st.booleans()),
        st.builds(e.Disable, within=st.booleans()),
        st.builds(e.SaveLoad, trainable=st.booleans()),
        st.builds(e.Activate, adapters=some, through_tuner=st.booleans()),
        st.builds(e.Add, adapter=one),
        st.just(e.Enable()),
        st.builds(e.Mode, training=st.booleans()),
        st.builds(e.Merge, adapters=some, safe=st.booleans()),
        st.just(e.Merge(safe=True, broken=True)),
        st.builds(e.LoadBeside, adapter=every, name=st.just(COPIED), trainable=st.booleans()),
        st.builds(e.Delete, adapter=every),
        st.builds(e.Unload, merge=st.booleans(), safe=st.booleans()),
        st.lists(item, min_size=batch, max_size=batch).map(lambda a: e.Mixed(adapters=tuple(a))),
        _weighted(names),
        st.builds(e.Scale, adapter=one, scale=st.sampled_from((1.0, 2.0, 0.5))),
        st.just(e.Copy()),
        _conversions(),
    ]
    if can_swap():
        ranks = st.sampled_from((None, None, SWAP_RANK // 2, setting.swap_rank))
        acts.append(st.builds(e.HotSwap, adapter=one, target_rank=ranks))
    return st.one_of(*acts)


def _conversions() -> SearchStrategy[e.Act]:
    return st.sampled_from(
        [
            *(e.Convert(dtype=dtype) for dtype in ("bfloat16", "float32", "float16")),
            *(e.Convert(channels_last=last) for last in (True, False)),
        ]
    )


def _weighted(names: Sequence[str]) -> SearchStrategy[e.Act]:
    def build(adapters: list[str], weights: list[float], combination: str, density: float) -> e.Act:
        kind = combination if len(adapters) > 1 else "linear"
        return e.Weighted(
            adapters=tuple(adapters),
            weights=tuple(weights[: len(adapters)]),
            combination=kind,
            name=MIXTURE,
            density=density if kind.startswith(PRUNING) else None,
        )

    return st.builds(
        build,
        st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True),
        st.lists(st.sampled_from(WEIGHTS), min_size=2, max_size=2),
        st.sampled_from(COMBINATIONS),
        st.sampled_from((0.5, 1.0)),
    )
