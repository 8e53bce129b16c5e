"""The metrics of a case: name, unit, direction and kind of each, in one table.

docs/metrics.md explains each one. The kind decides how the gate judges it (see `policy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft_regress.runs.schema import Metric

if TYPE_CHECKING:
    from peft_regress.units import Direction, Kind, Unit

__all__ = ["BATCH_SUFFIX", "COST_METRICS", "INVARIANTS", "METRICS", "MetricSpec", "make_metric"]

BATCH_SUFFIX = "_b32"
"""Suffix of a cost metric measured at batch 32; without it, at batch 1."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric is: its unit, which way is better, and how the gate treats it."""

    unit: Unit
    direction: Direction
    kind: Kind


def _flops(kind: Kind = "exact") -> MetricSpec:
    return MetricSpec(unit="flop", direction="none" if kind == "info" else "lower", kind=kind)


_BYTES = MetricSpec(unit="byte", direction="lower", kind="bytes")

COST_METRICS: dict[str, MetricSpec] = {
    "forward_flops": _flops(),
    "backward_flops": _flops(),
    "optimizer_flops": _flops(),
    "projection_flops": _flops(),
    "paper_forward_flops": _flops("info"),
    "paper_backward_flops": _flops("info"),
    "peak_bytes": _BYTES,
    "peak_param_bytes": _BYTES,
    "peak_buffer_bytes": _BYTES,
    "peak_grad_bytes": _BYTES,
    "peak_activation_bytes": _BYTES,
    "peak_temp_bytes": _BYTES,
    "peak_optimizer_bytes": _BYTES,
    "optimizer_state_bytes": _BYTES,
    "category_sum_bytes": _BYTES,
    "aten_ops": MetricSpec(unit="count", direction="lower", kind="exact"),
}
"""Metrics of one training step, measured at batch 1 and, with `BATCH_SUFFIX`, at batch 32."""

METRICS: dict[str, MetricSpec] = {
    # A changed number of trained parameters is another function, whichever way it moved.
    "trainable_params": MetricSpec(unit="count", direction="same", kind="exact"),
    "total_params": MetricSpec(unit="count", direction="lower", kind="exact"),
    "adapter_bytes": MetricSpec(unit="byte", direction="lower", kind="exact"),
    **COST_METRICS,
    **{name + BATCH_SUFFIX: spec for name, spec in COST_METRICS.items()},
    "first_losses": MetricSpec(unit="nat", direction="same", kind="fingerprint"),
    "filled_losses": MetricSpec(unit="nat", direction="same", kind="fingerprint"),
    "accuracy": MetricSpec(unit="fraction", direction="higher", kind="accuracy"),
    "loss": MetricSpec(unit="nat", direction="lower", kind="accuracy"),
    "step_seconds": MetricSpec(unit="second", direction="lower", kind="seconds"),
    "relative_step_seconds": MetricSpec(unit="ratio", direction="lower", kind="info"),
}

INVARIANTS: tuple[str, ...] = (
    "identity_at_init",
    "expected_trainable",
    "frozen_unchanged",
    "trainable_changed",
    "projections_renewed",
    "merge_equals_unmerged",
    "disabled_equals_base",
    "toggling_keeps_trainable",
    "doubled_rank_not_smaller",
    "dtypes_as_asked",
    "channels_last_kept",
    "saved_adapter_reloads",
    "reload_keeps_trainable",
    "stored_adapter_loads",
)
"""The facts that `invariants` checks of every case, by name."""


def make_metric(name: str, value: float, samples: list[Any] | None = None) -> Metric:
    """Return a metric of the table with its value; `samples` has one item a seed."""
    spec = METRICS[name]
    return Metric(
        value=value, unit=spec.unit, direction=spec.direction, kind=spec.kind, samples=samples
    )
