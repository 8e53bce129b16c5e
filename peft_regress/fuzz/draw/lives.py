"""Draw lives: acts in any order, of which those that make no sense in a state are left out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from peft_regress.fuzz import example as e
from peft_regress.fuzz.life.plan import Plan, after, legal, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    from peft_regress.fuzz.methods import Method

LONGEST = 10
UNKNOWN = "unknown"


def lives(example: e.Example, method: Method) -> SearchStrategy[tuple[e.Act, ...]]:
    """Draw a life of an example without acts."""
    return st.lists(_acts(example), max_size=LONGEST).map(
        lambda acts: allowed(example, method, acts)
    )


def allowed(example: e.Example, method: Method, acts: Sequence[e.Act]) -> tuple[e.Act, ...]:
    """Return the acts that make sense after those before them."""
    plan, kept = Plan.start(example, method.abilities), []
    for act in acts:
        if not legal(plan, act):
            continue
        kept.append(act)
        if refusal(plan, act) is None:
            plan = after(plan, act)
    return tuple(kept)


def _acts(example: e.Example) -> SearchStrategy[e.Act]:
    names = list(dict.fromkeys(adapter.name for adapter in example.adapters))
    more = [*names, "copied", "mixture"]
    one, every = st.sampled_from(names), st.sampled_from(more)
    some = st.lists(every, min_size=1, max_size=2, unique=True).map(tuple)
    batch = example.network.batch
    common: list[SearchStrategy[e.Act]] = [
        st.builds(e.Fill, seed=st.integers(0, 3)),
        st.builds(e.Merge, adapters=st.none(), safe=st.booleans()),
        st.just(e.Unmerge()),
        st.builds(e.Train, steps=st.integers(1, 2), keep_optimizer=st.booleans()),
        st.builds(e.Disable, within=st.booleans()),
        st.builds(e.SaveLoad, trainable=st.booleans()),
        st.builds(e.Activate, adapters=some, through_tuner=st.booleans()),
        st.builds(e.Add, adapter=one),
    ]
    rare: list[SearchStrategy[e.Act]] = [
        st.just(e.Enable()),
        st.builds(e.Mode, training=st.booleans()),
        st.builds(e.Merge, adapters=some, safe=st.booleans()),
        st.builds(e.Merge, adapters=st.none(), safe=st.just(True), broken=st.just(True)),  # noqa: FBT003
        st.builds(e.LoadBeside, adapter=every, name=st.just("copied"), trainable=st.booleans()),
        st.builds(e.Delete, adapter=every),
        st.builds(e.Unload, merge=st.booleans(), safe=st.booleans()),
        st.builds(
            e.Mixed,
            adapters=st.lists(
                st.sampled_from([*more, "__base__", UNKNOWN]), min_size=batch, max_size=batch
            ).map(tuple),
        ),
        _weighted(names),
        st.builds(e.Scale, adapter=one, scale=st.sampled_from((1.0, 2.0, 0.5))),
        st.just(e.Copy()),
        st.builds(
            e.Convert,
            dtype=st.sampled_from((None, "float32", "bfloat16", "float16")),
            channels_last=st.sampled_from((None, True, False)),
        ),
    ]
    if find_spec("peft.utils.hotswap") is not None:
        rare.append(
            st.builds(e.HotSwap, adapter=one, target_rank=st.sampled_from((None, None, 8, 16)))
        )
    return st.one_of(st.one_of(common), st.one_of(rare))


def _weighted(names: Sequence[str]) -> SearchStrategy[e.Act]:
    def build(adapters: list[str], weight: float, combination: str) -> e.Act:
        return e.Weighted(
            adapters=tuple(adapters),
            weights=(weight,) * len(adapters),
            combination=combination if len(adapters) > 1 else "linear",
            name="mixture",
        )

    return st.builds(
        build,
        st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True),
        st.sampled_from((1.0, 0.5, -1.0)),
        st.sampled_from(("cat", "svd")),
    )
