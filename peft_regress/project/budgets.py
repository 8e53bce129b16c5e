"""What the author of a case allows: budgets for its costs, and bounds for its changes."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec.structs import force_setattr

from peft_regress.cases import CaseId, Name, split_case_id
from peft_regress.errors import InputError

Quantity = Literal["byte", "flop"]
if TYPE_CHECKING:
    Amount = str | int | None
else:  # in a file
    Amount = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None

_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS: Final[dict[Quantity, Mapping[str, float]]] = {
    "byte": {**{f"{prefix}B": size for prefix, size in _DECIMAL.items()}, **_BINARY},
    "flop": {f"{prefix}FLOP": size for prefix, size in _DECIMAL.items()},
}
"""The size of each unit of a quantity."""
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:[eE]\d+)?)\s*(?P<unit>[A-Za-z]+)")
_LONGEST_AMOUNT: Final = 40

SHARES: Final = ("peak_of", "peak_b32_of", "update_of", "ship_of")
"""The limits that are shares of another case's cost."""
_QUANTITIES: Final[Mapping[str, Quantity]] = {
    "peak": "byte", "attainable": "byte", "ship": "byte", "edge_train": "byte", "update": "flop",
}  # fmt: skip
OWN_MATRIX: Final = "own"
"""The matrix of own cases that name no other."""
LARGEST: Final = 2**63
"""No number of a budget or a bound comes near it; a file holds no larger whole number."""
LEAST_SHARE: Final = 1e-6
MOST_SHARE: Final = 1e6


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a metric may change before the gate reports it, in place of its usual bound.

    Relative to the reference's value, except for `accuracy` and `score`: there it is the difference
    of the means over the seeds.
    """

    bound: Annotated[float, msgspec.Meta(ge=0)]
    reason: str
    """The evidence for the bound; shown beside each verdict that it decides."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a bound that is no number from 0 on, or has no reason."""
        if not (_is_number(self.bound) and self.bound >= 0):
            raise InputError(f"bound {self.bound!r} is not a number from 0 on")
        if not self.reason.strip():
            raise InputError(f"bound {self.bound!r} needs a reason: the evidence for it")


class Budget(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The limits of a case; None is no limit. Amounts are strings with a unit, and become numbers.

    Raises `InputError` for an amount without a unit or with the unit of another quantity, and for a
    share that is not positive or of no case.
    """

    peak: Amount = None
    """The most `peak_bytes`, such as "256 MiB"."""
    attainable: Amount = None
    """The most `attainable_bytes`: what a step takes if it keeps no more than gradients need."""
    update: Amount = None
    """The most FLOPs of one step, forward, backward and optimizer together: "2 GFLOP"."""
    ship: Amount = None
    """The most `adapter_bytes`, such as "500 kB"."""
    score: float | None = None
    """The lowest accuracy (a fraction), or the lowest value of your own score."""
    edge_train: Amount = None
    """The most `edge_train_bytes`: the case is also exported to ExecuTorch and run there."""
    device: Name | None = None
    """The name of a device class: the case must fit into its memory and storage."""
    of: CaseId | None = None
    """The id of the case that the following limits are shares of: "digits/full/net"."""
    peak_of: float | None = None
    """The most `peak_bytes` as a share of that case's: 0.85."""
    peak_b32_of: float | None = None
    """The same of `peak_bytes_b32`, which only built-in cases have."""
    update_of: float | None = None
    """The most FLOPs of one step as a share of that case's."""
    ship_of: float | None = None
    """The most `adapter_bytes` as a share of that case's."""

    def __post_init__(self) -> None:
        for name, quantity in _QUANTITIES.items():
            given = getattr(self, name)
            try:
                is_size = type(given) is int and 0 <= given < LARGEST
                if given is not None and not is_size:
                    force_setattr(self, name, parse_amount(given, quantity))
            except InputError as error:
                raise InputError(f"budget {name}={error}") from None
        if self.score is not None and not _is_number(self.score):
            raise InputError(f"budget score={self.score!r} is not a number below {LARGEST:.1e}")
        shares = {name: share for name in SHARES if (share := getattr(self, name)) is not None}
        for name, share in shares.items():
            if not (_is_number(share) and LEAST_SHARE <= share <= MOST_SHARE):
                raise InputError(f"budget {name}={share!r} is not a share, such as 0.85")
            if self.of is None:
                raise InputError(
                    f"budget {name}={share!r} is of no case: name it, as in of='digits/full/net'"
                )
        if self.of is not None and not shares:
            raise InputError(
                f"budget of={self.of!r} limits nothing: add a share, such as peak_of=0.85"
            )
        try:
            split_case_id(self.of or "task/full/architecture")
        except InputError as error:
            raise InputError(f"budget of={error}") from None

    def limit(self, part: str) -> float | None:
        """Return the limit of a part that is a number: bytes, FLOPs, a score or a share."""
        found: float | None = getattr(self, part)
        return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST


def parse_amount(text: object, quantity: Quantity) -> int:
    """Return an amount such as "256 MiB" or "2 GFLOP" in bytes or FLOPs."""
    units = UNITS[quantity]
    shown = str(text)[:_LONGEST_AMOUNT]
    match = _AMOUNT.fullmatch(shown.strip()) if isinstance(text, str) else None
    if match is None or match["unit"] not in units:
        example = "256 MiB" if quantity == "byte" else "2 GFLOP"
        raise InputError(
            f"{shown!r} is not an amount with one of {', '.join(units)}, such as {example!r}"
        )
    amount = float(match["number"]) * units[match["unit"]]
    if not amount < LARGEST:
        raise InputError(f"{shown!r} is too large, not below {LARGEST:.1e}")
    return round(amount)
