"""What must hold after each act, and how a check tells that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

CRASH: Final = "crash"
"""The check that fails where the process itself ends."""
CHECKS: Final[Mapping[str, str]] = {
    "accepted": "no error for what must be refused",
    "cost": "more FLOPs than the formula needs",
    "crash": "the process ends ({})",
    "disabled": "disabled adapters change the output",
    "dtype": "another dtype than that of the base",
    "exception": "{}",
    "frozen": "the wrong parameters train or change",
    "function": "another function than the formula's",
    "gradient": "other gradients than the formula's",
    "identity": "the new adapter changes the output",
    "layout": "weights are no longer contiguous",
    "leak": "another adapter has changed",
    "leftover": "something of an adapter is left",
    "loaded": "the loaded adapter is not the saved one",
    "merged": "the merged model computes something else",
    "no_op": "the adapter has no effect",
    "refused_safe_merge": "a refused merge has changed the base",
    "saved_keys": "the file holds tensors of another adapter",
    "trained": "an adapter has not changed",
    "two_ways": "the model computes something else than before",
    "unmerged": "the base weights are not as before",
}
"""What is wrong where a check does not hold, for titles; {} is the type of an exception. What must
hold is in docs/fuzz.md."""
OF_FORMULA: Final = frozenset(
    {"cost", "disabled", "dtype", "function", "gradient"}
    | {"identity", "layout", "merged", "no_op", "unmerged"}
)
"""The checks of what a method computes by code of its own."""


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
