"""Budgets: what one update of a case may cost at most, and how little it may score."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from peft_regress.errors import InputError

Quantity = Literal["byte", "flop"]

UNITS: Final[dict[Quantity, dict[str, float]]] = {
    "byte": {
        "B": 1,
        **{f"{prefix}B": 10**power for prefix, power in (("k", 3), ("M", 6), ("G", 9), ("T", 12))},
        **{f"{prefix}iB": 2**power for prefix, power in (("K", 10), ("M", 20), ("G", 30))},
    },
    "flop": {
        "FLOP": 1,
        **{f"{p}FLOP": 10**power for p, power in (("k", 3), ("M", 6), ("G", 9), ("T", 12))},
    },
}
"""The size of each unit of a quantity."""
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:[eE]\d+)?)\s*(?P<unit>[A-Za-z]+)")
_LONGEST_AMOUNT: Final = 40


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a case; None is no limit. Amounts are strings with a unit.

    Raises `InputError` for an amount without a unit, or with the unit of another quantity.
    """

    peak: str | None = None
    """The most `peak_bytes`, such as "256 MiB"."""
    update: str | None = None
    """The most FLOPs of one step, forward, backward and optimizer together: "2 GFLOP"."""
    ship: str | None = None
    """The most `adapter_bytes`, such as "500 kB"."""
    score: float | None = None
    """The lowest accuracy (a fraction), or the lowest value of your own score."""
    edge_train: str | None = None
    """The most `edge_train_bytes`: the case is also exported to ExecuTorch and run there."""
    device: str | None = None
    """The name of a device class: the case must fit into its memory and storage."""

    def __post_init__(self) -> None:
        """Refuse what is no amount."""
        for name in ("peak", "ship", "edge_train"):
            self._check(name, "byte")
        self._check("update", "flop")
        score: object = self.score
        if score is not None and (
            isinstance(score, bool)
            or not isinstance(score, int | float)
            or not math.isfinite(score)
        ):
            msg = f"budget score={score!r} is not a finite number"
            raise InputError(msg)
        device: object = self.device
        if device is not None and not (isinstance(device, str) and device):
            msg = f"budget device={self.device!r} is not the name of a device class"
            raise InputError(msg)

    def _check(self, name: str, quantity: Quantity) -> None:
        text = getattr(self, name)
        if text is None:
            return
        try:
            parse_amount(text, quantity)
        except InputError as error:
            msg = f"budget {name}={error}"
            raise InputError(msg) from None


def parse_amount(text: object, quantity: Quantity) -> int:
    """Return an amount such as "256 MiB" or "2 GFLOP" in bytes or FLOPs.

    Raises `InputError`, which names the units of the quantity.
    """
    units = UNITS[quantity]
    example = "256 MiB" if quantity == "byte" else "2 GFLOP"
    wanted = f"an amount with one of {', '.join(units)}, such as {example!r}"
    match = None
    if isinstance(text, str) and len(text) <= _LONGEST_AMOUNT:
        match = _AMOUNT.fullmatch(text.strip())
    if match is None or match["unit"] not in units:
        shown = repr(text)[:_LONGEST_AMOUNT]
        msg = f"{shown} is not {wanted}"
        raise InputError(msg)
    return round(float(match["number"]) * units[match["unit"]])
