"""What is drawn for an adapter beside its targets.

The first value of each is the simplest, which hypothesis shrinks to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from peft_fuzz.example import Layer
from peft_fuzz.methods.layout import fan_in

Strategies: TypeAlias = "dict[str, SearchStrategy[Any]]"


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What is drawn for an adapter.

    Attributes:
        always: Fields that every adapter states.
        sometimes: Fields that few adapters state; the others keep the default.
        bias: The value of `bias` that trains the adapted layers' biases, if there is the field.
        agree: Takes out what the documentation does not allow together.
        shared: Fields that all adapters of a model must have alike, by the documentation.

    """

    always: Strategies = field(default_factory=dict)
    sometimes: Strategies = field(default_factory=dict)
    bias: str | None = None
    agree: Callable[[dict[str, Any]], dict[str, Any]] = dict
    shared: tuple[str, ...] = ()


RANKS: Final = (2, 1, 3, 4, 9)
"""Also above the size of the drawn layers."""


def values(*those: Any) -> SearchStrategy[Any]:
    """Draw one of these; the first is the simplest."""
    return st.sampled_from(those)


def on() -> SearchStrategy[bool]:
    """Draw an option that is off by default."""
    return st.just(value=True)


def off() -> SearchStrategy[bool]:
    """Draw an option that is on by default."""
    return st.just(value=False)


def inputs_of(layer: Layer) -> int:
    """Return how many inputs a rotation has: of an embedding the width."""
    return layer.outputs if layer.kind == "embedding" else fan_in(layer)


def sizes_of(layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of inputs and outputs."""
    return [size for layer in layers for size in (layer.inputs, layer.outputs)]
