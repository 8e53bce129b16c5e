"""What must hold after each act, and how a check tells that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn


@dataclass(frozen=True)
class Check:
    """Something that must hold."""

    holds: str
    broken: str
    of_formula: bool = False


CRASH: Final = "crash"
"""The check that fails where the process itself ends."""
CHECKS: Final[Mapping[str, Check]] = {
    "accepted": Check(
        "What the documentation refuses raises a clear error or does no harm.",
        "no error for what must be refused",
    ),
    "cost": Check(
        "A forward pass needs no more FLOPs than the method's formula.",
        "more FLOPs than the formula needs",
        of_formula=True,
    ),
    "crash": Check("A life ends, and does not end the process.", "the process ends ({})"),
    "disabled": Check(
        "With adapters disabled the model computes what the base computes.",
        "disabled adapters change the output",
        of_formula=True,
    ),
    "dtype": Check(
        "Base weights and outputs keep the type of the base; new adapters are float32.",
        "another dtype than that of the base",
        of_formula=True,
    ),
    "exception": Check(
        "A documented use raises no exception; what is refused is refused clearly.", "{}"
    ),
    "frozen": Check(
        "Nothing changes or trains but the trainable adapters, and they train whole.",
        "the wrong parameters train or change",
    ),
    "function": Check(
        "The output is that of the base with the weights of the method's formula.",
        "another function than the formula's",
        of_formula=True,
    ),
    "gradient": Check(
        "The gradients of an adapter are those of the method's formula.",
        "other gradients than the formula's",
        of_formula=True,
    ),
    "identity": Check(
        "A new adapter leaves the function as it is, where its method promises so.",
        "the new adapter changes the output",
        of_formula=True,
    ),
    "layout": Check(
        "Merged weights keep their memory layout, so that they can be saved.",
        "weights are no longer contiguous",
        of_formula=True,
    ),
    "leak": Check(
        "What is done with one adapter leaves the others as they are.",
        "another adapter has changed",
    ),
    "leftover": Check(
        "A deleted adapter leaves nothing behind, nor do unloaded ones.",
        "something of an adapter is left",
    ),
    "loaded": Check(
        "A loaded adapter computes what the saved one computed.",
        "the loaded adapter is not the saved one",
    ),
    "merged": Check(
        "Merging does not change the function.",
        "the merged model computes something else",
        of_formula=True,
    ),
    "no_op": Check(
        "An adapter whose parameters have changed computes another function.",
        "the adapter has no effect",
        of_formula=True,
    ),
    "refused_safe_merge": Check(
        "A safe merge that finds NaN raises and leaves the base untouched.",
        "a refused merge has changed the base",
    ),
    "saved_keys": Check(
        "An adapter's file holds its own tensors alone.",
        "the file holds tensors of another adapter",
    ),
    "trained": Check(
        "A training step changes the parameters of each active adapter that trains.",
        "an adapter has not changed",
    ),
    "two_ways": Check(
        "Two ways to the same state lead to the same function.",
        "the model computes something else than before",
    ),
    "unmerged": Check(
        "Unmerging gives the base weights back.",
        "the base weights are not as before",
        of_formula=True,
    ),
}


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
