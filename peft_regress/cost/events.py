"""The log of a step: what it computes and allocates, in order; and the words for it."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Phase = Literal["forward", "backward", "optimizer", "projection"]

Loss = Literal["cross-entropy", "sum"]
"""What a step minimizes: cross-entropy with labels, or the sum of the logits."""


Tensors = Literal["fake tensors", "real tensors"]
"""What a step was measured on: tensors without values, or real copies."""


class FlopEvent(NamedTuple):
    """The FLOPs of one call of an operator; module '' is outside any."""

    phase: Phase
    module: str
    operator: str
    flops: int
    paper_flops: int


Category = Literal["param", "buffer", "grad", "activation", "temp", "optimizer"]

CATEGORIES: tuple[Category, ...] = get_args(Category)


class MemoryEvent(NamedTuple):
    """One allocation or, with a negative `delta_bytes`, one free.

    A change of category is two events, the free first, so that the total never counts a tensor
    twice.
    """

    delta_bytes: int
    category: Category
    module: str
    operator: str = ""
    """What allocated it; '' for what existed before the step."""
