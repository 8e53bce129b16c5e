"""What is drawn for an adapter beside its targets.

The first value of each is the simplest, which hypothesis shrinks to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from peft_fuzz.networks.network import Layer

Strategies: TypeAlias = "dict[str, SearchStrategy[Any]]"
RANKS: Final = (2, 1, 3, 4, 9)
"""Also above the size of the drawn layers."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What is drawn for an adapter.

    Attributes:
        bias: The value of `bias` that trains the adapted layers' biases, if there is the field.
        agree: Takes out what the documentation does not allow together.
        shared: Fields that all adapters of a model must have alike, by the documentation.

    """

    always: Strategies = field(default_factory=dict)
    sometimes: Strategies = field(default_factory=dict)
    bias: str | None = None
    agree: Callable[[dict[str, Any]], dict[str, Any]] = dict
    shared: tuple[str, ...] = ()


Drawing: TypeAlias = Callable[[Sequence[Layer]], Fields]
"""Returns what is drawn for an adapter on some layers."""


def values(*those: Any) -> SearchStrategy[Any]:
    """Draw one of these; the first is the simplest."""
    return st.sampled_from(those)


@st.composite
def pattern(draw: DrawFn, layers: Sequence[Layer], drawn: SearchStrategy[Any]) -> dict[str, Any]:
    """Draw a pattern with one key, under one of the styles that the documentation has."""
    name = draw(st.sampled_from([layer.name for layer in layers]))
    last = name.rpartition(".")[2]
    styles = (name, last, "^" + re.escape(name), f".*{re.escape(last)}")
    return {draw(st.sampled_from(styles)): draw(drawn)}


class AmbiguousPatternError(KeyError):
    """Two keys give a layer different values; the documentation does not say which one holds."""


def by_pattern(keys: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
    """Return a layer's value: of the key that matches its path, or the default.

    A key is a name or a regular expression (peft's documentation of `rank_pattern`). It matches
    the whole path or a dotted end of it; one that starts with ^ the whole path alone.
    """
    parts = layer.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts))]
    found = [
        value
        for key, value in (keys or {}).items()
        if any(re.fullmatch(key, end) for end in (ends[:1] if key.startswith("^") else ends))
    ]
    if any(value != found[0] for value in found):
        raise AmbiguousPatternError(layer)
    return found[0] if found else default


def sizes_of(layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of inputs and outputs."""
    return [size for layer in layers for size in (layer.inputs, layer.outputs)]


def common(layers: Sequence[Layer]) -> list[int]:
    """Return what divides the inputs and outputs of all layers; the first is above 1 if any is."""
    shared = gcd(*sizes_of(layers))
    return [size for size in (2, 4, shared) if shared % size == 0] or [1]


def within(layers: Sequence[Layer]) -> list[int]:
    """Return ranks up to the smallest size."""
    smallest = min(sizes_of(layers))
    return [rank for rank in (2, 1, 3, 4) if rank <= smallest]


def rank_patterns(layers: Sequence[Layer], ranks: Sequence[int]) -> Strategies:
    """Draw patterns of ranks and of scales now and then."""
    return {
        "rank_pattern": pattern(layers, st.sampled_from(ranks)),
        "alpha_pattern": pattern(layers, values(1, 2, 16, 32)),
    }
