"""What must hold after each act, and how a check tells that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

CHECKS: Final[Mapping[str, str]] = {
    "accepted": "What the documentation refuses raises a clear error or does no harm.",
    "cost": "A forward pass needs no more FLOPs than the method's formula.",
    "crash": "A life ends, and does not end the process.",
    "disabled": "With adapters disabled the model computes what the base computes.",
    "dtype": "Base weights and outputs keep the type of the base; new adapters are float32.",
    "exception": "A documented use raises no exception; what is refused is refused clearly.",
    "frozen": "Nothing changes or trains but the trainable adapters, and they train whole.",
    "function": "The output is that of the base with the weights of the method's formula.",
    "gradient": "The gradients of an adapter are those of the method's formula.",
    "identity": "A new adapter leaves the function as it is, where its method promises so.",
    "layout": "Merged weights keep their memory layout, so that they can be saved.",
    "leak": "What is done with one adapter leaves the others as they are.",
    "leftover": "A deleted adapter leaves nothing behind, nor do unloaded ones.",
    "loaded": "A loaded adapter computes what the saved one computed.",
    "merged": "Merging does not change the function.",
    "no_op": "An adapter whose parameters have changed computes another function.",
    "refused_safe_merge": "A safe merge that finds NaN raises and leaves the base untouched.",
    "saved_keys": "An adapter's file holds its own tensors alone.",
    "trained": "A training step changes the parameters of each active adapter that trains.",
    "two_ways": "Two ways to the same state lead to the same function.",
    "unmerged": "Unmerging gives the base weights back.",
}
"""One sentence for each check."""


class NotHeldError(Exception):
    """A check failed; the message says what was expected, what came, and by how much."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


def fail(check: str, message: str) -> NoReturn:
    """Raise NotHeldError."""
    raise NotHeldError(check, message)


class AbsentError(Exception):
    """The installed release does not have what an example needs."""


class RefusedError(Exception):
    """The library clearly refused an act, which it may."""
