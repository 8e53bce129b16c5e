"""Every bound of the gate, in one place, with the evidence for it.

A bound is a relative change unless its name says otherwise. docs/metrics.md repeats them for
readers; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_POLICY", "Policy"]

_FINGERPRINT_BOUNDS: Mapping[str, tuple[float, ...]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far a metric of each kind may move before the gate calls it a change."""

    bytes_bound: float = 0.001
    fingerprint_bound: tuple[float, ...] = (5e-6, 2e-3, 0.1, 0.2)
    fingerprint_bounds: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: _FINGERPRINT_BOUNDS
    )
    fingerprint_floor_nats: float = 0.01
    accuracy_margin: float = 0.04
    loss_margin: float = 0.10
    seconds_bound: float = 2.0

    def fingerprint(self, method: str, *, step: int) -> float:
        """Return the bound on the loss at a step, counted from 0, of a method."""
        bounds = self.fingerprint_bounds.get(method, self.fingerprint_bound)
        return bounds[min(step, len(bounds) - 1)]


DEFAULT_POLICY = Policy()
