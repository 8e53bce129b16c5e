"""Every bound of the gate, in one place, with the evidence for it.

A bound is a relative change unless its name says otherwise. docs/metrics.md repeats them for
readers; a test holds the two together. "Seen" below is the largest difference between runs of the
same code, over all cases and seeds of the default matrix: on two processors under AVX-512, and on
one of them with ATen, oneDNN and MKL held to AVX2 and to SSE4, as `tools/studies/variants.py`
makes them and `tools/studies/variation.py` prints it. No bound that has such evidence is wider than
ten times what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from peft_regress.cases import BFLOAT16_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_POLICY", "Policy"]

# With all convolutions frozen nothing amplifies rounding. Seen: head 4.6e-7, 1.3e-6, 1.7e-6,
# 9.1e-7; bn_head, whose statistics are sums over a batch, 6.3e-6, 8.3e-6, 1.1e-5, 6.1e-5.
# HRA multiplies chains of n x n matrices: seen, on its four cases of the extended matrix between
# AVX-512 and AVX2, 5.9e-7, 1.9e-2, 2.5e-2, 5.3e-2.
_FINGERPRINT_BOUNDS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "bn_head": (2e-5, 5e-5, 5e-5, 5e-4),
        "head": (4e-6, 9e-6, 9e-6, 9e-6),
        "hra": (5e-6, 0.1, 0.1, 0.2),
    }
)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far a metric of each kind may move before the gate calls it a change.

    Counts and FLOPs have no bound: they are exact, and any change is one.
    """

    bytes_bound: float = 0.001
    """Seen: 0, on every machine. Leaves room for scalars that a release of torch keeps or drops."""

    fingerprint_bound: tuple[float, ...] = (4e-6, 5e-3, 0.1, 0.2)
    """First losses by step. Loss 1 is a forward pass (seen 4.6e-7). Then an activation that lies
    within rounding of a kink (ReLU, max-pool) sends its gradient another way: seen 1.5e-3, 4.5e-2
    and 9.3e-2, by a single seed of a few cases, where most cases move by 1e-6."""

    fingerprint_bounds: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: _FINGERPRINT_BOUNDS
    )
    """By method, where the bound is another one."""

    bfloat16_fingerprint_bound: tuple[float, ...] = (0.01, 0.15, 0.3, 0.3)
    """The same on a bfloat16 base, whose numbers have 8 bits: a processor with instructions for
    them sums otherwise than one without. Seen, on those of an AMD EPYC and, held to AVX2, on those
    of shufflenet_v2_x0_5: 1.1e-3 (HRA; the others 2.7e-7), 4.7e-2, 8.5e-2, 6.6e-2."""

    filled_bound: float = 3e-5
    """Losses of a filled adapter, of any fill: forward passes, in float32 whatever the base. Seen
    3.8e-6, over all adapters of both matrices held to AVX2 and to SSE4."""

    fingerprint_floor_nats: float = 0.01
    """Losses below this are compared as if they were this large: rounding is not relative there."""

    accuracy_margin: float = 0.05
    """Mean over the seeds, paired, as a fraction, on both sides. Seen 0.037, with a standard
    deviation over the cases of 0.0087: a true change of 0.065 is seen nineteen times in twenty."""

    loss_margin: float = 0.15
    """Test loss, mean over the seeds, paired. Seen 0.096."""

    seconds_bound: float = 2.0
    """Where the machine is equal, the fastest seed of each side: three times as slow. One step's
    time varies by a quarter on a shared machine, and by more beside a busy neighbour."""

    drift_budget: float = 1.0
    """How far a metric may be from the entry that its drift counts from, in multiples of its own
    bound. No more than from the newest entry, since noise does not add up: two runs of the same
    code are as far apart whether a day or a hundred entries lie between them. Seen, of the bounds
    and between two processors: accuracy 0.62, test loss 0.51, first losses 0.46, bytes 0."""

    accuracy_noise: float = 0.007
    """Standard deviation of a case's accuracy, a fraction, over machines: what `history` takes for
    noise. Seen between two processors: 0.0066, for GaLore, which moves most."""

    loss_noise: float = 0.011
    """The same of the test loss, relative. Seen 0.011, for GaLore."""

    seconds_noise: float = 0.1
    """The same of the seconds of the fastest seed on one machine, relative."""

    time_effect: float = 0.10
    """A step slower by this is what `peft-regress time` must find: it calls a case the same only
    where the whole interval lies below, so that such a step passes once in 40 runs at most."""

    time_margin: float = 0.03
    """How much slower the whole interval must be for `slower`. Seen: one and the same code was
    slower by 2.8 % in one process than in another, for as long as both lived; seen once, by no tool
    that repeats it."""

    time_error_rate: float = 0.05
    """The chance that any interval of one `peft-regress time` misses its ratio, over all cases."""

    time_pairs: int = 30
    """Pairs of blocks a case. Seen at a load of six to eight on two cores: intervals 2 to 9 % wide,
    and a step 10 % slower found in 7 runs of 7 (docs/timing.md)."""

    def fingerprint(self, metric: str, method: str, *, step: int) -> float:
        """Return the bound on one loss of a fingerprint, at a step counted from 0, of a method."""
        if metric == "filled_losses":
            return self.filled_bound
        usual = (
            self.bfloat16_fingerprint_bound
            if method.endswith(BFLOAT16_SUFFIX)
            else self.fingerprint_bound
        )
        bounds = self.fingerprint_bounds.get(method, usual)
        return bounds[min(step, len(bounds) - 1)]


DEFAULT_POLICY = Policy()
