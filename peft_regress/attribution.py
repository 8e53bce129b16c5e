"""Name the modules and ops that a change in FLOPs or peak bytes comes from. Pure.

The rows of a difference add up exactly to the change of the total they explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft_regress.records import Ledger

__all__ = ["Contribution", "explain_metric"]

_PHASES = {
    "forward_flops": "forward",
    "backward_flops": "backward",
    "optimizer_flops": "optimizer",
    "projection_flops": "projection",
}


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one module's op (or one category's bytes in a module) adds to a change."""

    module: str
    what: str
    old: int
    new: int

    @property
    def change(self) -> int:
        """Return new minus old."""
        return self.new - self.old


def explain_metric(metric: str, old: Ledger, new: Ledger) -> tuple[Contribution, ...]:
    """Return the contributions to a metric's change, the largest first.

    Empty for a metric that the ledger, which is batch 1's, does not attribute.
    """
    if metric in _PHASES:
        before = _flat_flops(old, _PHASES[metric])
        after = _flat_flops(new, _PHASES[metric])
    elif metric == "peak_bytes":
        before, after = _flat_bytes(old), _flat_bytes(new)
    else:
        return ()
    rows = [
        Contribution(module=module, what=what, old=before.get(key, 0), new=after.get(key, 0))
        for key in before.keys() | after.keys()
        for module, what in (key,)
    ]
    moved = [row for row in rows if row.change]
    return tuple(sorted(moved, key=lambda row: (-abs(row.change), row.module, row.what)))


def _flat_flops(ledger: Ledger, phase: str) -> dict[tuple[str, str], int]:
    modules = ledger.flops.get(phase, {})
    return {(module, op): flops for module, ops in modules.items() for op, flops in ops.items()}


def _flat_bytes(ledger: Ledger) -> dict[tuple[str, str], int]:
    return {
        (module, category): size
        for category, modules in ledger.bytes.items()
        for module, size in modules.items()
    }
